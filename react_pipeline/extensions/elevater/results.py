"""Results of a checkpoint on the benchmark, as an artifact: one row a figure, means, prediction
files.

Belongs here: publishing, resuming after a kill, prediction files. Does not belong here: a single
figure (`measuring`), means (`summary`), encoding (`features`), the difference to the base
(`comparison`).

Files: `results.parquet`, `results.json` (`experiments.Measurement`), `summary.parquet`, `table.md`,
`predictions/<experiment>/*.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.extensions.protocols import checkpoint_of, load_model
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, InputError, Scratch, StaleArtifact

from .datasets import DATASETS, Dataset, dataset
from .experiments import Experiment, experiments
from .features import Features
from .readers import read_dataset
from .settings import ElevaterConfig
from .submission import Prediction, write_prediction, write_submission
from .summary import fewer_images, mean_over_datasets, summarize, to_markdown, with_figures

if TYPE_CHECKING:
    from torch import nn

    from react_pipeline.clip import Clip

    from .measuring import DatasetMeasurer, Outcome
    from .trainer import ImageExamples

BENCHMARK_RESULTS = "benchmark_results"


def publish_results(project: Project, slug: str, method: str) -> Artifact:
    """Publish zero-shot and, if shots are configured, the adaptations of a method on every
    configured data set.

    Missing data, and experiments that cannot be made (a training diverges), are rows with a reason
    and no value. Killed in between, finished data sets are not measured again.

    Raises:
        StaleArtifact: If fine-tuning finds other images than the features were made of.
    """
    inputs = resolve(project, BENCHMARK_RESULTS, method_key(slug, method))
    features = inputs.parents["benchmark_features"]

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        checkpoint = checkpoint_of(inputs.parents)
        measuring = _Measuring(project, f"react-{slug}-{method}", features, checkpoint)
        rows = []
        for name in measuring.config.dataset_names:
            measure = partial(measuring.measure, dataset(name))
            rows += scratch.build(name, directory, measure)
        return _finish(directory, pd.DataFrame(rows))

    return project.store.build(inputs, write)


def collect_submission(artifact: Artifact, experiment: str, path: Path) -> list[str]:
    """Write the leaderboard's zip of one experiment, and report what the leaderboard would miss.

    Args:
        experiment: Its folder: `zero_shot`, `linear_probe_5`, `finetuning_full`.

    Raises:
        InputError: If the results have no predictions of it.
    """
    folder = artifact.path / "predictions" / experiment
    if not folder.is_dir():
        names = sorted(path.name for path in (artifact.path / "predictions").glob("*"))
        raise InputError(
            f"{artifact.path}: no predictions of {experiment!r}; there are "
            f"{', '.join(names) or 'none'}"
        )
    return write_submission(folder, path)


@dataclass
class _Measuring:
    """Measures data sets one after another; the model is loaded for the first that is there."""

    project: Project
    model_name: str
    features: Artifact
    checkpoint: Artifact

    @cached_property
    def config(self) -> ElevaterConfig:
        return self.project.config.section(ElevaterConfig)

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.checkpoint)

    def measure(self, entry: Dataset, directory: Path) -> list[dict[str, Any]]:
        """Write the predictions on a data set, and return the rows of its figures."""
        from .measuring import DatasetMeasurer, unavailable

        planned = experiments(self.config)
        try:
            test = Features.read(self.features, entry.name, "test")
        except Unavailable as error:
            outcomes = [unavailable(entry, experiment, error.reason) for experiment in planned]
            return [row.model_dump() for outcome in outcomes for row in outcome.measurements]
        measurer = DatasetMeasurer(self.clip, entry, test, normalize=self.config.normalize)
        images = cache(self._images)  # listed once for all experiments of the data set
        rows = []
        for experiment in planned:
            if experiment == Experiment():
                outcome = measurer.zero_shot()
            else:
                outcome = self._adapted(measurer, experiment, images)
            rows += [row.model_dump() for row in outcome.measurements]
            self._predict(entry, experiment, outcome, directory)
        return rows

    def _adapted(self, measurer: DatasetMeasurer, experiment: Experiment, images: Any) -> Outcome:
        from .measuring import unavailable

        try:
            train = Features.read(self.features, measurer.entry.name, "train")
        except Unavailable as error:
            return unavailable(measurer.entry, experiment, error.reason, measurer.test)
        return measurer.adapted(experiment, train, lambda part: images(part.about))

    def _images(self, about: Any) -> ImageExamples:
        """Find the images that features were made of, to train a tower on."""
        import torch

        from react_pipeline.labelled import preprocessing

        from .encoding import PreprocessedImages
        from .trainer import ImageExamples

        config = self.project.config
        images = read_dataset(self.config.root or Path(), about.dataset, about.split)
        if images.digest() != about.digest:
            raise StaleArtifact(
                f"{about.dataset}, split {about.split}: its images changed since they were "
                f"encoded; rematerialize `{self.features.stage}` for {self.features.key!r}"
            )
        preprocess = preprocessing(self.clip, squash=dataset(about.dataset).squash)
        read = PreprocessedImages(
            images.read, images.locations.__getitem__, preprocess, config.corpus.max_pixels
        )
        labels = torch.from_numpy(images.labels)
        return ImageExamples(read, labels, workers=config.embedding.worker_count)

    def _predict(
        self, entry: Dataset, experiment: Experiment, outcome: Outcome, directory: Path
    ) -> None:
        if outcome.probabilities is None:
            return
        backbone = _count_parameters(self.clip.model)
        # The mean head of the 20 data sets, without its bias.
        classes = sum(entry.num_classes for entry in DATASETS.values())
        head = round(self.clip.dimension * classes / len(DATASETS))
        prediction = Prediction(
            model_name=f"CLIP-{self.model_name}" if experiment.shots == 0 else self.model_name,
            dataset_name=entry.name,
            num_trainable_params=outcome.n_trainable,
            num_params=backbone + head,
            num_visual_params=_count_parameters(self.clip.model.visual),
            num_backbone_params=backbone,
            n_shot=experiment.shots,
            rnd_seeds=(experiment.seed,),
            predictions=outcome.probabilities[None],
        )
        write_prediction(prediction, directory / "predictions" / experiment.folder)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _finish(directory: Path, rows: pd.DataFrame) -> dict[str, Any]:
    rows = rows.astype(dict.fromkeys(("value", "learning_rate", "weight_decay"), "float64"))
    rows.to_parquet(directory / "results.parquet", index=False)
    rows.to_json(directory / "results.json", orient="records", indent=1)
    summary = summarize(rows)
    summary.to_parquet(directory / "summary.parquet", index=False)
    (directory / "table.md").write_text(to_markdown(summary), encoding="utf-8")
    means = mean_over_datasets(summary)
    measured = with_figures(summary[summary["status"] == "ok"])
    values = {
        figure: group.set_index("dataset")["value"].to_dict()
        for figure, group in measured.groupby("figure", sort=False)
    }
    missing = summary[(summary["experiment"] == "zero-shot") & (summary["status"] != "ok")]
    trainings = rows.drop_duplicates(["dataset", "adaptation", "shots", "seed"])
    return {
        "datasets_evaluated": means.get("zero-shot", (0.0, 0))[1],
        "of": len(DATASETS),
        "mean": {name: mean for name, (mean, _) in means.items()},
        "datasets_in_mean": {name: count for name, (_, count) in means.items()},
        "value": values,
        "not_measured": missing.set_index("dataset")["status"].to_dict(),
        "datasets_with_fewer_images": fewer_images(summary),
        "seconds": round(float(trainings["seconds"].sum()), 2),
    }
