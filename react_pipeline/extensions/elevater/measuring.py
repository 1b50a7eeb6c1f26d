"""Measuring one data set of the benchmark: zero-shot, and after training on its shots.

Does not belong here: training (`trainer`), metrics, what is published (`results`).
Shapes: N images, C classes, D width.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name

from react_pipeline.clip import LOGIT_SCALE, Clip, zero_shot_head
from react_pipeline.store import InputError, TrainingError

from .datasets import Dataset
from .experiments import Experiment, Measurement, Protocol
from .features import Features
from .head import Head
from .metrics import measure
from .shots import split_training
from .sweep import adapt
from .trainer import FeatureExamples, ImageExamples, Trainer


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
    return Outcome(_rows(entry, experiment, test, {}, unavailable=reason))


@dataclass
class DatasetMeasurer:
    """Measures a checkpoint on one data set.

    Attributes:
        normalize: Whether a head sees unit features, as in the toolkit's `encode_image(norm=True)`
            that measures REACT. Its runs of plain CLIP do not.
    """

    clip: Clip
    entry: Dataset
    test: Features
    normalize: bool = True

    @cached_property
    def head(self) -> torch.Tensor:
        """Unit class vectors (D, C)."""
        return zero_shot_head(self.clip, self.entry.class_names, self.entry.templates)

    def zero_shot(self) -> Outcome:
        """Classify by the class names alone."""
        started = time.monotonic()
        experiment = Experiment()
        logits = LOGIT_SCALE * F.normalize(torch.from_numpy(self.test.features), dim=-1) @ self.head
        # For multilabel sets too, as in the benchmark.
        probabilities = logits.softmax(dim=-1).numpy()
        try:
            value = measure(self.entry.metric, self.test.labels, probabilities)
        except InputError as error:
            return unavailable(self.entry, experiment, str(error), self.test)
        values: Mapping[Protocol, float] = {"zero-shot": value}
        rows = _rows(self.entry, experiment, self.test, values, seconds=_since(started))
        return Outcome(rows, probabilities)

    def adapted(
        self, experiment: Experiment, train: Features, images: Callable[[Features], ImageExamples]
    ) -> Outcome:
        """Search and train on the shots, and measure by both protocols.

        Args:
            experiment: Not zero-shot.
            images: For `fine-tune`: features to the images that they were made of.
        """
        started = time.monotonic()
        head = Head.from_text(self.head)
        tunes = experiment.adaptation == "fine-tune"
        trainer = Trainer(
            head, self.entry.metric, self.clip if tunes else None, normalize=self.normalize
        )
        # Outside of the try: data that changed stop everything, they are no figure that is
        # unavailable.
        examples: Callable[[Features], Any] = images if tunes else self._examples
        trained_on = examples(train)
        tested_on = examples(self.test)
        try:
            split = split_training(
                train.labels,
                n_classes=self.entry.num_classes,
                shots=experiment.shots,
                seed=experiment.seed,
                dataset=self.entry.name,
            )
            adaptation = adapt(trainer, trained_on, tested_on, split)
        except (InputError, TrainingError) as error:
            return unavailable(self.entry, experiment, str(error), self.test)
        search = adaptation.search
        rows = _rows(
            self.entry,
            experiment,
            self.test,
            {"clean": adaptation.clean, "elevater": adaptation.elevater},
            images=f"{self.test.about.digest}+{train.about.digest}",
            seconds=_since(started),
            learning_rate=search.best.learning_rate,
            weight_decay=search.best.weight_decay,
            failed_trials=sum(search.failures.values()),
        )
        return Outcome(rows, adaptation.final.best_probabilities, adaptation.final.n_trainable)

    def _examples(self, part: Features) -> FeatureExamples:
        features = torch.from_numpy(part.features)
        labels = torch.from_numpy(part.labels)
        if self.normalize:
            features = F.normalize(features, dim=-1)
        return FeatureExamples(features.to(self.clip.device), labels.to(self.clip.device))


def _rows(
    entry: Dataset,
    experiment: Experiment,
    test: Features | None,
    values: Mapping[Protocol, float],
    **fields: Any,
) -> tuple[Measurement, ...]:
    """A figure for each protocol; `fields` are further ones of `Measurement`."""
    fields = {
        "dataset": entry.name,
        **vars(experiment),
        "metric": entry.metric,
        "expected": entry.sizes["test"],
        **fields,
    }
    if test is not None:
        about = test.about
        fields = {"n": about.n, "layout": about.layout, "images": about.digest, **fields}
    return tuple(
        Measurement(**fields, protocol=protocol, value=values.get(protocol))
        for protocol in experiment.protocols
    )


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
