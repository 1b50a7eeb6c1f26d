"""Measuring one data set of the benchmark: zero-shot, and after training on its shots.

Does not belong here: training (`probe`, `finetune`), metrics, what is published (`results`).
Shapes: N images, C classes, D width.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name

from react_pipeline.clip import LOGIT_SCALE, Clip, zero_shot_head
from react_pipeline.extensions.elevater.datasets import Dataset
from react_pipeline.extensions.elevater.experiments import Experiment, Measurement
from react_pipeline.extensions.elevater.features import Features
from react_pipeline.extensions.elevater.finetune import ImageExamples, fine_tune
from react_pipeline.extensions.elevater.head import Head
from react_pipeline.extensions.elevater.metrics import measure
from react_pipeline.extensions.elevater.probe import FeatureExamples, linear_probe
from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.extensions.elevater.sweep import Adaptation
from react_pipeline.store import InputError, TrainingError


@dataclass(frozen=True)
class Outcome:
    """What an experiment gave.

    Attributes:
        probabilities: (N, C) of the test images, in the table's order of classes, for a prediction
            file; None if the experiment failed. After training those of the best epoch, as in the
            benchmark.
    """

    measurements: tuple[Measurement, ...]
    probabilities: NDArray[np.floating[Any]] | None = None
    n_trainable: int = 0


def unavailable(
    entry: Dataset, experiment: Experiment, reason: str, test: Features | None = None
) -> Outcome:
    """An experiment that could not be made."""
    about = _about(entry, experiment, test)
    return Outcome(
        tuple(
            Measurement(**about, protocol=protocol, unavailable=reason)
            for protocol in experiment.protocols
        )
    )


@dataclass
class DatasetMeasurer:
    """Measures a checkpoint on one data set."""

    clip: Clip
    entry: Dataset
    test: Features
    config: ElevaterConfig

    @cached_property
    def head(self) -> torch.Tensor:
        """Unit class vectors (D, C)."""
        return zero_shot_head(self.clip, self.entry.class_names, self.entry.templates)

    def zero_shot(self) -> Outcome:
        """Classify by the class names alone."""
        started = time.monotonic()
        experiment = Experiment()
        logits = LOGIT_SCALE * F.normalize(torch.from_numpy(self.test.features), dim=-1) @ self.head
        probabilities = logits.softmax(
            dim=-1
        ).numpy()  # for multilabel sets too, as in the benchmark
        try:
            value = measure(self.entry.metric, self.test.labels, probabilities)
        except InputError as error:
            return unavailable(self.entry, experiment, str(error), self.test)
        about = _about(self.entry, experiment, self.test)
        row = Measurement(**about, protocol="zero-shot", value=value, seconds=_since(started))
        return Outcome((row,), probabilities)

    def adapted(
        self, experiment: Experiment, train: Features, images: Callable[[Features], ImageExamples]
    ) -> Outcome:
        """Search and train on the shots, and measure by both protocols.

        Args:
            experiment: Not zero-shot.
            images: For `fine-tune`: features to the images that they were made of.
        """
        started = time.monotonic()
        # Outside of the try: data that changed stop everything, they are no figure that is
        # unavailable.
        tuned_on = (
            [images(part) for part in (train, self.test)]
            if experiment.adaptation == "fine-tune"
            else []
        )
        try:
            found = self._adapt(experiment, train, tuned_on)
        except (InputError, TrainingError) as error:
            return unavailable(self.entry, experiment, str(error), self.test)
        about = _about(self.entry, experiment, self.test) | {
            "images": f"{self.test.about.digest}+{train.about.digest}",
            "seconds": _since(started),
            "learning_rate": found.search.best.learning_rate,
            "weight_decay": found.search.best.weight_decay,
            "failed_trials": sum(found.search.failures.values()),
        }
        rows = tuple(
            Measurement(
                **about,
                protocol=protocol,
                value=found.clean if protocol == "clean" else found.elevater,
            )
            for protocol in experiment.protocols
        )
        return Outcome(rows, found.final.best_probabilities, found.final.n_trainable)

    def _adapt(
        self, experiment: Experiment, train: Features, images: Sequence[ImageExamples]
    ) -> Adaptation:
        n_classes = self.entry.num_classes
        split = split_training(
            train.labels,
            n_classes=n_classes,
            shots=experiment.shots,
            seed=experiment.seed,
            dataset=self.entry.name,
        )
        head = Head.from_text(self.head)
        metric = self.entry.metric
        if images:
            return fine_tune(self.clip, images[0], images[1], head, split, metric)
        examples = [self._examples(part) for part in (train, self.test)]
        return linear_probe(examples[0], examples[1], head, split, metric)

    def _examples(self, part: Features) -> FeatureExamples:
        features = torch.from_numpy(part.features)
        labels = torch.from_numpy(part.labels)
        return FeatureExamples(features.to(self.clip.device), labels.to(self.clip.device))


def _about(entry: Dataset, experiment: Experiment, test: Features | None) -> dict[str, Any]:
    known = (
        {}
        if test is None
        else {"n": test.about.n, "layout": test.about.layout, "images": test.about.digest}
    )
    return {
        "dataset": entry.name,
        **vars(experiment),
        "metric": entry.metric,
        "expected": entry.sizes["test"],
        **known,
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
