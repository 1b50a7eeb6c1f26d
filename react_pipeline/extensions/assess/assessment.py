"""Assessment of a finished `predict` run: pictures of no class, several classes a picture, drift.

Pictures of its classes are held-out pairs, which the model was not trained on, and pictures of no
class are random pairs of the control that were not retrieved. Each has two halves by position:
thresholds are chosen on the first and measured on the second. A picture is `other` if its highest
score is below the threshold (Hendrycks et al. 2022, arXiv 1911.11132). Drift is a two-sample
Kolmogorov-Smirnov test of the run against the labelled images. Shapes: N pictures, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from react_pipeline.corpus import CollectedPairs
from react_pipeline.extensions.predict import find_pictures
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import InputError, read_json_bounded, rename_synced, write_atomically
from react_pipeline.training import split_held_out
from react_pipeline.use import Classifier

LEVEL = 0.01
"""Of the test of drift: so many runs of pictures like the labelled ones are warned of."""
MOST_PICTURES, LEAST_POSITIVES, BINS = 1_000, 3, 20
"""Pictures of a kind that are encoded; held-out pairs of a class that has a threshold of its own;
bins of a histogram."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Other:
    """The threshold of `other`, and how it does on pairs that did not choose it.

    Attributes:
        kept: Share of held-out pairs above the threshold.
        refused: Share of random pairs below.
        pairs: How many of both it was measured on.
        auroc_no_class: Against the user's pictures of no class; None without any.
    """

    threshold: float
    auroc: float
    kept: float
    refused: float
    pairs: int
    auroc_no_class: float | None = None
    no_class: int = 0


@dataclass(frozen=True)
class Several:
    """Thresholds by class, and how they do on pairs that did not choose them.

    Attributes:
        f1: Over all pairs and classes.
        f1_of_first: Of the first class alone.
        mean_average_precision: On the labelled images; None without any.
    """

    thresholds: tuple[float, ...]
    f1: float
    f1_of_first: float
    pairs: int
    mean_labels: float
    mean_average_precision: float | None


@dataclass(frozen=True)
class Drift:
    """One number of each picture, of the run and of the labelled images, as histograms and
    a test.
    """

    name: str
    edges: tuple[float, ...]
    of_run: tuple[int, ...]
    of_labelled: tuple[int, ...]
    distance: float
    p_value: float

    @property
    def labelled(self) -> int:
        """How many labelled images."""
        return sum(self.of_labelled)

    @property
    def is_beyond_noise(self) -> bool:
        """Whether both differ."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Assessment:
    """The measurements of a run; `others` is the number of its pictures that show no class."""

    pictures: int
    others: int
    other: Other
    several: Several
    drifts: Sequence[Drift]


def assess_run(
    project: Project, slug: str, folder: Path, model: str, no_class: Path | None = None
) -> Assessment:
    """Assess a run, and write `assessed.parquet` (path, other, labels) and `assessment.json` next
    to its predictions.

    Raises:
        InputError: If the run is not finished or of another model, or no pair is held out.
        MissingArtifact, StaleArtifact: If pairs or control have to be materialized first.
    """
    classifier = Classifier.load(slug, model, config=project.path)
    table = _read_run(folder, classifier)
    held_out, is_of = held_out_scores(project, slug, classifier)
    random = random_scores(project, slug, classifier)
    labelled, class_ids = _labelled(project, slug, classifier)
    other = choose_other(held_out, random)
    if no_class is not None:
        outside = _scores(classifier, [one.read() for one in find_pictures(str(no_class))[0]])
        of_outside = auroc(held_out[1::2].max(axis=1), outside.max(axis=1))
        other = replace(other, auroc_no_class=of_outside, no_class=len(outside))
    thresholds = class_thresholds(held_out[::2], is_of[::2])
    assessed = apply(table, classifier.classes, other.threshold, thresholds)
    several = Several(
        tuple(map(float, thresholds)),
        f1_score(held_out[1::2] >= thresholds, is_of[1::2]),
        f1_score(held_out[1::2] >= held_out[1::2].max(axis=1, keepdims=True), is_of[1::2]),
        len(held_out[1::2]),
        float(assessed["labels"].str.len().mean()),
        mean_average_precision(labelled, class_ids),
    )
    drifts = []
    if len(labelled):
        _, best, confidence = classifier.rank(labelled, 1)
        drifts = [
            drift_of("confidence", table["confidence"].to_numpy(), confidence),
            drift_of("distance", 1 - table["score_1"].to_numpy(), 1 - best[:, 0]),
        ]
    done = Assessment(len(assessed), int(assessed["other"].sum()), other, several, drifts)
    _write(folder, assessed, done)
    return done


def choose_other(held_out: Scores, random: Scores) -> Other:
    """The threshold of `other` that best separates held-out pairs (N, C) from random ones
    (M, C).
    """
    from sklearn.metrics import roc_curve

    own, others = held_out.max(axis=1), random.max(axis=1)
    highest = np.concatenate([own[::2], others[::2]])
    is_own = np.arange(len(highest)) < len(own[::2])
    wrong, right, thresholds = roc_curve(is_own, highest)
    # The first is infinite.
    threshold = float(thresholds[1:][np.argmax((right - wrong)[1:])])
    own, others = own[1::2], others[1::2]
    return Other(
        threshold,
        auroc(own, others),
        float((own >= threshold).mean()),
        float((others < threshold).mean()),
        len(own) + len(others),
    )


def class_thresholds(scores: Scores, is_of: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The threshold (C,) of each class with the highest F1 on pairs (N, C); a class with too few of
    them has that of all classes together.
    """
    common = _best_f1(scores.ravel(), is_of.ravel())
    return np.array(
        [
            _best_f1(of_class, truth) if truth.sum() >= LEAST_POSITIVES else common
            for of_class, truth in zip(scores.T, is_of.T, strict=True)
        ],
        np.float32,
    )


def _best_f1(scores: Scores, truth: NDArray[np.bool_]) -> float:
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])


def apply(
    table: pd.DataFrame,
    classes: Sequence[str],
    other: float,
    thresholds: NDArray[np.float32],
) -> pd.DataFrame:
    """Path, other (bool) and labels (list) of the predictions of a run; labels are classes that the
    run lists, none of a picture that is `other`.
    """
    least = dict(zip(classes, thresholds.tolist(), strict=True))
    places = range(1, sum(name.startswith("class_") for name in table) + 1)
    is_other = table["score_1"] < other
    labels = [
        []
        if row["score_1"] < other
        else [
            row[f"class_{place}"]
            for place in places
            if row[f"score_{place}"] >= least[row[f"class_{place}"]]
        ]
        for row in table.to_dict("records")
    ]
    return pd.DataFrame({"path": table["path"], "other": is_other, "labels": labels})


def drift_of(name: str, of_run: NDArray[Any], of_labelled: NDArray[Any]) -> Drift:
    """The histograms of both samples, and their Kolmogorov-Smirnov test."""
    from scipy.stats import ks_2samp  # type: ignore[import-untyped]

    edges = np.histogram_bin_edges(np.concatenate([of_run, of_labelled]), BINS)
    counts = [np.histogram(values, edges)[0].tolist() for values in (of_run, of_labelled)]
    test = ks_2samp(of_run, of_labelled)
    return Drift(
        name,
        tuple(edges.tolist()),
        tuple(counts[0]),
        tuple(counts[1]),
        float(test.statistic),
        float(test.pvalue),
    )


def _read_run(folder: Path, classifier: Classifier) -> pd.DataFrame:
    try:
        run = read_json_bounded(folder / "run.json")
        table = pq.read_table(folder / "predictions.parquet").to_pandas()
        model, fingerprint = run["model"], run["fingerprint"]
        if run["transductive"]:
            raise ValueError("its pictures were judged together")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder}: no finished run of `react-pipeline predict` that can be assessed ({error})"
        ) from error
    if fingerprint != classifier.origin.fingerprint:
        raise InputError(
            f"{folder}: was made by {model}, not by {classifier.origin}; name its model with "
            "--model"
        )
    return table


def _scores(classifier: Classifier, pictures: Sequence[bytes]) -> Scores:
    vectors = torch.from_numpy(classifier.embed(pictures))
    return classifier.head.scores(vectors).numpy()


def held_out_scores(
    project: Project, slug: str, classifier: Classifier
) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores (N, C) of pairs that the model was not trained on, and the classes (N, C) of
    each.
    """
    artifact = fresh(project, "retrieved_set", slug)
    pairs = CollectedPairs(artifact)
    positions = np.arange(len(pairs))
    if classifier.origin.method != "base":
        _require_todays_training(project, slug, classifier)
        training = project.training(slug, classifier.origin.method)
        held_out = split_held_out(pairs, training.held_out_fraction, training.seed)[1]
        positions = held_out.numpy()
    if len(positions) < 2:
        raise InputError(
            f"{slug}: {classifier.origin.method} holds out no pairs to choose thresholds on; set "
            "`held_out_fraction`, and train again"
        )
    positions = np.random.default_rng(0).permutation(positions)[:MOST_PICTURES]
    scores = _scores(classifier, [pairs.encoded(int(place)) for place in positions])
    table = pd.read_parquet(artifact.file("pairs.parquet"), columns=["row", "classes"])
    classes = table.set_index("row")["classes"]
    is_of = [np.isin(classifier.classes, list(classes[pairs.rows[place]])) for place in positions]
    return scores, np.stack(is_of)


def _require_todays_training(project: Project, slug: str, classifier: Classifier) -> None:
    """Refuse a model of which today's pairs and settings do not say what it was trained on.

    Raises:
        InputError: If it is a control, an ensemble, or no longer the checkpoint of its method.
        MissingArtifact, StaleArtifact: If its method has to be trained first.
    """
    method = classifier.origin.method
    if method.endswith(CONTROL_SUFFIX) or project.method(method).of:
        raise InputError(
            f"{classifier.origin}: a control or an ensemble cannot be assessed; name its method, "
            "or a method that it joins, with --model"
        )
    current = fresh(project, CUSTOMIZED_CHECKPOINT, method_key(slug, method))
    if current.fingerprint != classifier.origin.fingerprint:
        raise InputError(
            f"{classifier.origin}: was trained on other pairs, or with other settings, than "
            f"today's; predict with --model {method}, and assess that"
        )


def random_scores(project: Project, slug: str, classifier: Classifier) -> Scores:
    """Scores (M, C) of pairs of the control that were not retrieved."""
    retrieved = CollectedPairs(fresh(project, "retrieved_set", slug))
    control = CollectedPairs(fresh(project, "control_set", slug))
    positions = np.flatnonzero(~np.isin(control.rows, retrieved.rows))
    if len(positions) < 2:
        raise InputError(f"{slug}: every random pair was retrieved; use a larger corpus")
    positions = np.random.default_rng(1).permutation(positions)[:MOST_PICTURES]
    return _scores(classifier, [control.encoded(int(place)) for place in positions])


def _labelled(
    project: Project, slug: str, classifier: Classifier
) -> tuple[Scores, NDArray[np.int64]]:
    """Scores (N, C) of labelled images, and their classes (N,); none if there are none."""
    domain = project.domain(slug)
    if domain.evaluation is None:
        return np.zeros((0, len(classifier.classes)), np.float32), np.zeros(0, np.int64)
    images = read_images(fresh(project, "evaluation_set", slug), domain)
    vectors = torch.from_numpy(encode_images(project.config, classifier.clip, images))
    return classifier.head.scores(vectors).numpy(), images["class_id"].to_numpy(np.int64)


def auroc(own: NDArray[Any], others: NDArray[Any]) -> float:
    """How often a score of the first is above one of the second."""
    from sklearn.metrics import roc_auc_score

    truth = np.arange(len(own) + len(others)) < len(own)
    return float(roc_auc_score(truth, np.concatenate([own, others])))


def f1_score(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Over all pairs and classes (N, C)."""
    right = int((predicted & truth).sum())
    return 2 * right / max(1, int(predicted.sum() + truth.sum()))


def mean_average_precision(scores: Scores, class_ids: NDArray[np.int64]) -> float | None:
    """Over the classes that have images."""
    from sklearn.metrics import average_precision_score

    if not len(scores):
        return None
    return float(
        np.mean(
            [
                average_precision_score(class_ids == class_id, scores[:, class_id])
                for class_id in np.unique(class_ids)
            ]
        )
    )


def _write(folder: Path, assessed: pd.DataFrame, done: Assessment) -> None:
    part = folder / ".assessed.parquet"
    assessed.to_parquet(part, index=False)
    rename_synced(part, folder / "assessed.parquet")
    text = json.dumps({**asdict(done), "level": LEVEL}, indent=1) + "\n"
    write_atomically(folder / "assessment.json", text)
