"""Measuring a checkpoint on data sets of the benchmark: zero-shot, and after training on shots.

Does not belong here: training (`trainer`), metrics, what is published (`results`).
Shapes: N images, C classes, D width.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.clip import LOGIT_SCALE, Clip, zero_shot_head
from react_pipeline.labelled import Unavailable
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, StaleArtifact, TrainingError

from .datasets import DATASETS, Dataset
from .encoding import load_images
from .features import Features
from .images import digests
from .metrics import measure
from .protocols import load_model
from .readers import read_dataset
from .settings import ElevaterConfig, Experiment
from .shots import split_training
from .submission import write_prediction
from .trainer import Examples, Trainer, adapt

Probabilities = NDArray[np.floating[Any]]
Outcome = tuple[dict[str, float], Probabilities, dict[str, Any]]
"""Fractions by protocol; probabilities (N, C) of the test images, in the table's order of classes,
after training those of the best epoch, as in the benchmark; and further columns of its rows.
"""


@dataclass
class Measurer:
    """Measures data sets one after another; the model is loaded for the first that is there."""

    project: Project
    model_name: str
    parents: Mapping[str, Artifact]

    @cached_property
    def config(self) -> ElevaterConfig:
        """Return the section `elevater`."""
        return self.project.config.section(ElevaterConfig)

    @cached_property
    def clip(self) -> Clip:
        """Load the checkpoint's model."""
        return load_model(self.project, self.parents)

    def measure(self, entry: Dataset, directory: Path) -> list[dict[str, Any]]:
        """Write the predictions on a data set, and return the rows of its figures (of
        `results.COLUMNS`).

        Raises:
            StaleArtifact: If fine-tuning finds other images than the features were made of.
        """
        try:
            test = Features.read(self.parents["benchmark_features"], entry.name, "test")
        except Unavailable as error:
            return [
                row
                for experiment in self.config.experiments
                for row in _rows(entry, experiment, {}, unavailable=error.reason)
            ]
        # (C, D); names or templates that are not there stop everything.
        head = zero_shot_head(self.clip, entry.class_names, entry.templates).T
        # Listed once for all experiments of the data set.
        images = cache(partial(self._images, entry.name))
        rows = []
        about = {"n": len(test.labels), "layout": test.layout, "images": test.digest}
        for experiment in self.config.experiments:
            started = time.monotonic()
            try:
                if experiment.shots:
                    outcome = self._adapted(entry, experiment, head, test, images)
                else:
                    outcome = _zero_shot(entry, head, test)
                values, probabilities, more = outcome
                self._predict(entry, experiment, probabilities, directory)
            except StaleArtifact:  # data that changed are no figure that is unavailable
                raise
            except (InputError, TrainingError) as error:
                values, more = {}, {"unavailable": getattr(error, "reason", str(error))}
            seconds = round(time.monotonic() - started, 2)
            rows += _rows(entry, experiment, values, **{**about, **more, "seconds": seconds})
        return rows

    def _adapted(
        self,
        entry: Dataset,
        experiment: Experiment,
        head: Tensor,
        test: Features,
        images: Callable[[str], Examples],
    ) -> Outcome:
        """Search and train on the shots, and measure by both protocols."""
        train = Features.read(self.parents["benchmark_features"], entry.name, "train")
        tunes = experiment.adaptation == "fine-tune"
        trainer = Trainer(head.float().contiguous(), entry.metric, self.clip if tunes else None)
        trained_on, tested_on = (
            images(split) if tunes else self._examples(part)
            for split, part in (("train", train), ("test", test))
        )
        split = split_training(
            train.labels,
            n_classes=entry.num_classes,
            shots=experiment.shots,
            seed=experiment.seed,
            dataset=entry.name,
        )
        final, failed = adapt(trainer, trained_on, tested_on, split)
        about = {
            "images": f"{test.digest}+{train.digest}",
            "learning_rate": final.trial.learning_rate,
            "weight_decay": final.trial.weight_decay,
            "failed_trials": failed,
        }
        values = {"clean": final.scores[-1], "elevater": final.best}
        return values, np.asarray(final.best_probabilities), about

    def _examples(self, part: Features) -> Examples:
        # The toolkit measures REACT on unit features (`encode_image(norm=True)`).
        features = torch.from_numpy(part.features).to(self.clip.device)
        labels = torch.from_numpy(part.labels).to(self.clip.device)
        return Examples(
            labels,
            torch.arange(len(labels)),
            lambda batches: (features[batch] for batch in batches),
        )

    def _images(self, name: str, split: str) -> Examples:
        """Find the images that features were made of, to train a tower on."""
        features = self.parents["benchmark_features"]
        encoded = features.manifest["content"]["images"][f"{name}/{split}"]
        try:
            images = read_dataset(self.config.root or Path(), name, split)
            is_same = images.digest(digests(images.pictures)) == encoded
        except Unavailable:
            is_same = False
        if not is_same:
            raise StaleArtifact(
                f"{name}, split {split}: its images changed since they were encoded; rematerialize "
                f"`{features.stage}` for {features.key!r}"
            )
        load = partial(load_images, self.project.config, self.clip, images)
        return Examples(torch.from_numpy(images.labels), torch.arange(len(images.labels)), load)

    def _predict(
        self, entry: Dataset, experiment: Experiment, probabilities: Probabilities, directory: Path
    ) -> None:
        model = self.clip.model
        backbone, visual = (
            sum(parameter.numel() for parameter in module.parameters())
            for module in (model, model.visual)
        )
        head = entry.num_classes * (self.clip.dimension + 1)
        trained = {"zero-shot": 0, "linear-probe": head, "fine-tune": visual + head}
        # The mean head of the 20 data sets, without its bias.
        classes = sum(row.num_classes for row in DATASETS.values())
        about = {
            "model_name": f"{'' if experiment.shots else 'CLIP-'}{self.model_name}",
            "dataset_name": entry.name,
            "num_trainable_params": trained[experiment.adaptation],
            "num_params": backbone + round(self.clip.dimension * classes / len(DATASETS)),
            "num_visual_params": visual,
            "num_backbone_params": backbone,
            "n_shot": experiment.shots,
            "rnd_seeds": [experiment.seed],
        }
        folder = directory / "predictions" / experiment.folder
        write_prediction(about, probabilities, folder)


def _zero_shot(entry: Dataset, head: Tensor, test: Features) -> Outcome:
    """Classify by unit class vectors (C, D) alone."""
    logits = LOGIT_SCALE * torch.from_numpy(test.features) @ head.T
    # For multilabel sets too, as in the benchmark.
    probabilities = logits.softmax(dim=-1).numpy()
    value = measure(entry.metric, test.labels, probabilities)
    return {"zero-shot": value}, probabilities, {}


def _rows(
    entry: Dataset, experiment: Experiment, values: dict[str, float], **about: Any
) -> list[dict[str, Any]]:
    """Return a row for each protocol of an experiment."""
    row = {
        **{"dataset": entry.name, "metric": entry.metric, "layout": "", "images": ""},
        **{"n": 0, "expected": entry.sizes["test"], "failed_trials": 0, "seconds": 0.0},
        **vars(experiment),
        "unavailable": None,
        **about,
    }
    return [
        {**row, "protocol": protocol, "value": values.get(protocol)}
        for protocol in experiment.protocols
    ]
