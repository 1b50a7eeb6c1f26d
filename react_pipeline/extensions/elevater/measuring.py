"""Measuring a checkpoint on data sets of the benchmark: zero-shot, and after training on shots.

Does not belong here: training (`trainer`), metrics, what is published (`results`).
Shapes: N images, C classes, D width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name

from react_pipeline.clip import LOGIT_SCALE, Clip, zero_shot_head
from react_pipeline.extensions.protocols import load_model
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, StaleArtifact, TrainingError

from .datasets import DATASETS, Dataset
from .encoding import prepared_images
from .experiments import Experiment, experiments
from .features import Features
from .metrics import measure
from .readers import read_dataset
from .settings import ElevaterConfig
from .shots import split_training
from .submission import write_prediction
from .sweep import adapt
from .trainer import FeatureExamples, ImageExamples, Trainer


@dataclass(frozen=True)
class Outcome:
    """What an experiment gave.

    Attributes:
        values: Fractions by protocol.
        probabilities: (N, C) of the test images, in the table's order of classes, for a prediction
            file; after training those of the best epoch, as in the benchmark.
        about: Further columns of its rows.
    """

    values: dict[str, float]
    probabilities: NDArray[np.floating[Any]] | None
    n_trainable: int = 0
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measurer:
    """Measures data sets one after another; the model is loaded for the first that is there."""

    project: Project
    model_name: str
    features: Artifact
    checkpoint: Artifact

    @cached_property
    def config(self) -> ElevaterConfig:
        """Return the section `elevater`."""
        return self.project.config.section(ElevaterConfig)

    @cached_property
    def clip(self) -> Clip:
        """Load the checkpoint's model."""
        return load_model(self.project, self.checkpoint)

    def measure(self, entry: Dataset, directory: Path) -> list[dict[str, Any]]:
        """Write the predictions on a data set, and return the rows of its figures (of
        `experiments.COLUMNS`).

        Raises:
            StaleArtifact: If fine-tuning finds other images than the features were made of.
        """
        read = cache(lambda split: Features.read(self.features, entry.name, split))
        images = cache(self._images)  # listed once for all experiments of the data set
        rows = []
        for experiment in experiments(self.config):
            started = time.monotonic()
            row: dict[str, Any] = {
                **{"dataset": entry.name, "metric": entry.metric, "layout": "", "images": ""},
                **{"n": 0, "expected": entry.sizes["test"], "failed_trials": 0},
                "unavailable": None,
                **vars(experiment),
            }
            values: dict[str, float] = {}
            _ = self.clip, entry.class_names, entry.templates  # a fault of these stops everything
            try:
                test = read("test")
                about = test.about
                row |= {"n": about.n, "layout": about.layout, "images": about.digest}
                if experiment == Experiment():
                    outcome = self._zero_shot(entry, test)
                else:
                    outcome = self._adapted(entry, experiment, read("train"), test, images)
                self._predict(entry, experiment, outcome, directory)
                row |= outcome.about
                values = outcome.values
            except (
                StaleArtifact
            ):  # no figure that is unavailable: data that changed stop everything
                raise
            except (InputError, TrainingError) as error:
                row["unavailable"] = getattr(error, "reason", str(error))
            row["seconds"] = round(time.monotonic() - started, 2)
            rows += [
                {**row, "protocol": protocol, "value": values.get(protocol)}
                for protocol in experiment.protocols
            ]
        return rows

    def _zero_shot(self, entry: Dataset, test: Features) -> Outcome:
        """Classify by the class names alone."""
        vectors = F.normalize(torch.from_numpy(test.features), dim=-1)
        # For multilabel sets too, as in the benchmark.
        probabilities = (LOGIT_SCALE * vectors @ self._head(entry)).softmax(dim=-1).numpy()
        value = measure(entry.metric, test.labels, probabilities)
        return Outcome({"zero-shot": value}, probabilities)

    def _head(self, entry: Dataset) -> torch.Tensor:
        """Return unit class vectors (D, C)."""
        return zero_shot_head(self.clip, entry.class_names, entry.templates)

    def _adapted(
        self,
        entry: Dataset,
        experiment: Experiment,
        train: Features,
        test: Features,
        images: Callable[[Any], ImageExamples],
    ) -> Outcome:
        """Search and train on the shots, and measure by both protocols."""
        tunes = experiment.adaptation == "fine-tune"
        trainer = Trainer(
            self._head(entry).T.float().contiguous(),
            entry.metric,
            self.clip if tunes else None,
            normalize=self.config.normalize,
        )
        trained_on, tested_on = (
            images(part.about) if tunes else self._examples(part) for part in (train, test)
        )
        split = split_training(
            train.labels,
            n_classes=entry.num_classes,
            shots=experiment.shots,
            seed=experiment.seed,
            dataset=entry.name,
        )
        adaptation = adapt(trainer, trained_on, tested_on, split)
        search, final = adaptation.search, adaptation.final
        about = {
            "images": f"{test.about.digest}+{train.about.digest}",
            "learning_rate": search.best.learning_rate,
            "weight_decay": search.best.weight_decay,
            "failed_trials": sum(search.failures.values()),
        }
        values = {"clean": final.last, "elevater": final.best}
        return Outcome(values, final.best_probabilities, final.n_trainable, about)

    def _examples(self, part: Features) -> FeatureExamples:
        features = torch.from_numpy(part.features)
        labels = torch.from_numpy(part.labels)
        # The toolkit measures REACT so (`encode_image(norm=True)`), and plain CLIP not.
        if self.config.normalize:
            features = F.normalize(features, dim=-1)
        return FeatureExamples(features.to(self.clip.device), labels.to(self.clip.device))

    def _images(self, about: Any) -> ImageExamples:
        """Find the images that features were made of, to train a tower on."""
        images = read_dataset(self.config.root or Path(), about.dataset, about.split)
        if images.digest() != about.digest:
            raise StaleArtifact(
                f"{about.dataset}, split {about.split}: its images changed since they were "
                f"encoded; rematerialize `{self.features.stage}` for {self.features.key!r}"
            )
        config = self.project.config
        read = prepared_images(config, self.clip, images)
        labels = torch.from_numpy(images.labels)
        return ImageExamples(read, labels, workers=config.embedding.worker_count)

    def _predict(
        self, entry: Dataset, experiment: Experiment, outcome: Outcome, directory: Path
    ) -> None:
        if outcome.probabilities is None:
            return
        backbone = _count_parameters(self.clip.model)
        # The mean head of the 20 data sets, without its bias.
        classes = sum(row.num_classes for row in DATASETS.values())
        about = {
            "model_name": f"{'' if experiment.shots else 'CLIP-'}{self.model_name}",
            "dataset_name": entry.name,
            "num_trainable_params": outcome.n_trainable,
            "num_params": backbone + round(self.clip.dimension * classes / len(DATASETS)),
            "num_visual_params": _count_parameters(self.clip.model.visual),
            "num_backbone_params": backbone,
            "n_shot": experiment.shots,
            "rnd_seeds": [experiment.seed],
        }
        folder = directory / "predictions" / experiment.folder
        write_prediction(about, outcome.probabilities, folder)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
