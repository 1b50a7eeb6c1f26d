"""Results of a checkpoint on the benchmark, as an artifact: one row a figure, means, prediction
files.

Belongs here: publishing, resuming after a kill, prediction files. Does not belong here: a single
figure (`measuring`), means (`summary`), encoding (`features`), the difference to the base
(`comparison`).

Files: `results.parquet`, `results.json` (`experiments.Measurement`), `summary.parquet`, `table.md`,
`predictions/<experiment>/*.json`, and `all_predictions.zip` next to these where the experiment
covers all 20 data sets of an ELEVATER copy (and few-shot the seeds 0, 1 and 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.extensions.protocols import checkpoint_of, load_model
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    Scratch,
    StaleArtifact,
)

from .datasets import DATASETS, Dataset, dataset
from .experiments import Experiment, experiments
from .features import Features
from .index_files import LAYOUT
from .readers import read_dataset
from .settings import ElevaterConfig
from .submission import (
    FEW_SHOT_SEEDS,
    Prediction,
    check_submission,
    dataset_of,
    expected_datasets,
    write_prediction,
    write_submission,
)
from .summary import (
    fewer_images,
    mean_over_datasets,
    summarize,
    to_markdown,
    with_figures,
)

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
        for name in project.config.section(ElevaterConfig).dataset_names:
            measure = partial(measuring.measure, dataset(name))
            rows += scratch.build(name, directory, measure)
        return _finish(
            directory, pd.DataFrame(rows), experiments(project.config.section(ElevaterConfig))
        )

    return project.store.build(inputs, write)


def collect_submission(artifact: Artifact, experiment: str, path: Path) -> list[str]:
    """Write the leaderboard's zip of one experiment, and report what the leaderboard would reject.

    Args:
        experiment: Its folder: `zero_shot`, `linear_probe_5`, `finetuning_full`.

    Returns:
        Problems, one a line; an incomplete benchmark has some.

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
    write_submission(folder, path)
    rows = pd.read_parquet(artifact.file("results.parquet")).drop_duplicates("dataset")
    problems = [str(problem) for problem in check_submission(path, expected_datasets({}))]
    for row in rows[~rows["layout"].isin(["", LAYOUT])].itertuples():
        problems.append(
            f"{row.dataset}: read from the layout {row.layout!r}, whose order of images is not "
            "the benchmark's"
        )
    return problems


@dataclass
class _Measuring:
    """Measures data sets one after another; the model is loaded for the first that is there."""

    project: Project
    model_name: str
    features: Artifact
    checkpoint: Artifact
    _examples: dict[str, ImageExamples] = field(default_factory=dict)

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.checkpoint)

    def measure(self, entry: Dataset, directory: Path) -> list[dict[str, Any]]:
        """Write the predictions on a data set, and return the rows of its figures."""
        from .measuring import DatasetMeasurer, unavailable

        planned = experiments(self.project.config.section(ElevaterConfig))
        self._examples.clear()
        try:
            test = Features.read(self.features, entry.name, "test")
        except Unavailable as error:
            outcomes = [unavailable(entry, experiment, error.reason) for experiment in planned]
            return [row.model_dump() for outcome in outcomes for row in outcome.measurements]
        measurer = DatasetMeasurer(self.clip, entry, test)
        rows = []
        for experiment in planned:
            outcome = (
                measurer.zero_shot()
                if experiment == Experiment()
                else self._adapted(measurer, experiment)
            )
            rows += [row.model_dump() for row in outcome.measurements]
            self._predict(test, experiment, outcome, directory)
        return rows

    def _adapted(self, measurer: DatasetMeasurer, experiment: Experiment) -> Outcome:
        from .measuring import unavailable

        try:
            train = Features.read(self.features, measurer.entry.name, "train")
        except Unavailable as error:
            return unavailable(measurer.entry, experiment, error.reason, measurer.test)
        return measurer.adapted(experiment, train, self._images_of)

    def _images_of(self, features: Features) -> ImageExamples:
        """The images that features were made of; looked for only when a tower is trained."""
        import torch

        from react_pipeline.labelled import preprocessing

        from .encoding import PreprocessedImages
        from .trainer import ImageExamples

        about = features.about
        if about.digest not in self._examples:
            config = self.project.config
            root = config.section(ElevaterConfig).root or Path()
            images = read_dataset(root, about.dataset, about.split, warn=False)
            if images.digest() != about.digest:
                raise StaleArtifact(
                    f"{about.dataset}, split {about.split}: its images changed since they were "
                    f"encoded; rematerialize `{self.features.stage}` for {self.features.key!r}"
                )
            preprocess = preprocessing(self.clip, squash=dataset(about.dataset).squash)
            read = PreprocessedImages(
                images.read, images.locations.__getitem__, preprocess, config.corpus.max_pixels
            )
            labels = torch.from_numpy(features.labels)
            workers = config.embedding.worker_count
            self._examples[about.digest] = ImageExamples(read, labels, workers=workers)
        return self._examples[about.digest]

    def _predict(
        self, test: Features, experiment: Experiment, outcome: Outcome, directory: Path
    ) -> None:
        if outcome.probabilities is None:
            return
        # The files on disk may have the classes in another order than the table.
        probabilities = outcome.probabilities[:, list(test.about.order)]
        visual = _count_parameters(self.clip.model.visual)
        backbone = _count_parameters(self.clip.model)
        # The mean head of the 20 data sets, without its bias.
        classes = sum(entry.num_classes for entry in DATASETS.values())
        head = round(self.clip.dimension * classes / len(DATASETS))
        prediction = Prediction(
            model_name=f"CLIP-{self.model_name}" if experiment.shots == 0 else self.model_name,
            dataset_name=test.about.dataset,
            num_trainable_params=outcome.n_trainable,
            num_params=backbone + head,
            num_visual_params=visual,
            num_backbone_params=backbone,
            n_shot=experiment.shots,
            rnd_seeds=(experiment.seed,),
            predictions=probabilities[None],
        )
        write_prediction(prediction, directory / "predictions" / experiment.folder)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _finish(directory: Path, rows: pd.DataFrame, planned: Sequence[Experiment]) -> dict[str, Any]:
    rows = rows.astype({"value": "float64", "learning_rate": "float64", "weight_decay": "float64"})
    rows.to_parquet(directory / "results.parquet", index=False)
    (directory / "results.json").write_text(
        rows.to_json(orient="records", indent=1) + "\n", encoding="utf-8"
    )
    summary = summarize(rows)
    summary.to_parquet(directory / "summary.parquet", index=False)
    (directory / "table.md").write_text(to_markdown(summary), encoding="utf-8")
    means = mean_over_datasets(summary)
    measured = with_figures(summary[summary["status"] == "ok"])
    values = {
        figure: group.set_index("dataset")["value"].to_dict()
        for figure, group in measured.groupby("figure", sort=False)
    }
    zero_shot = summary[summary["experiment"] == "zero-shot"]
    trainings = rows.drop_duplicates(["dataset", "adaptation", "shots", "seed"])
    # Rows in the order of another layout would line up with other images on the leaderboard.
    in_order = set(rows["layout"]) <= {"", LAYOUT}
    missing = zero_shot[zero_shot["status"] != "ok"].set_index("dataset")["status"].to_dict()
    return {
        "datasets_evaluated": means.get("zero-shot", (0.0, 0))[1],
        "of": len(DATASETS),
        "mean": {name: mean for name, (mean, _) in means.items()},
        "datasets_in_mean": {name: count for name, (_, count) in means.items()},
        "value": values,
        "not_measured": missing,
        "datasets_with_fewer_images": fewer_images(summary),
        "submissions": list(_submissions(directory, planned)) if in_order else [],
        "seconds": round(float(trainings["seconds"].sum()), 2),
    }


def _submissions(directory: Path, planned: Sequence[Experiment]) -> Iterator[str]:
    """Write the zip of each experiment that the leaderboard would show an average of, and name its
    folder.
    """
    for name in dict.fromkeys(experiment.folder for experiment in planned):
        mine = [experiment for experiment in planned if experiment.folder == name]
        folder = directory / "predictions" / name
        predicted = Counter(map(dataset_of, folder.glob("*.json")))
        seeds = FEW_SHOT_SEEDS if mine[0].shots > 0 else (0,)
        right_seeds = tuple(experiment.seed for experiment in mine) == seeds
        if right_seeds and all(predicted[dataset_name] == len(mine) for dataset_name in DATASETS):
            write_submission(folder)
            yield name
