"""Assessing a run: thresholds tell what they should, and drift is noticed beyond noise alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode

from react_pipeline.extensions.assess import assessment
from react_pipeline.extensions.assess.assessment import (
    apply,
    assess_run,
    choose_other,
    class_thresholds,
    drift_of,
    held_out_scores,
)
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.project import Project
from react_pipeline.store import InputError
from react_pipeline.use import Classifier, Origin

SLUG = "shapes"


def scores_around(centre: float, count: int, classes: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(centre, 0.01, (count, classes)).astype(np.float32)


@pytest.fixture
def run(retrieved_project: Project, tmp_path: Path) -> Path:
    """A finished run of the base on three drawings."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for shape in SHAPES[:3]:
        (photos / f"{shape}.png").write_bytes(encode(draw(shape, COLOURS[0], 7)))
    classifier = Classifier.load(SLUG, "base", config=retrieved_project.path)
    predict_pictures(classifier, str(photos), tmp_path / "out", Options(workers=0))
    return tmp_path / "out"


def test_other_is_measured_on_pairs_that_did_not_choose() -> None:
    other = choose_other(scores_around(0.3, 40), scores_around(0.1, 60))
    assert 0.1 < other.threshold < 0.4
    assert (other.auroc, other.refused, other.pairs) == (1.0, 1.0, 50)
    assert other.kept > 0.8  # the threshold is a score of the other half
    # The halves disagree: what was chosen on one is of no use on the other.
    own = np.where(np.arange(40)[:, None] % 2, scores_around(0.0, 40), scores_around(0.3, 40))
    assert choose_other(own, scores_around(0.1, 60)).auroc == 0.0


def test_a_class_has_the_threshold_that_finds_its_pairs() -> None:
    is_of = np.zeros((30, 3), bool)
    is_of[:20, 0] = is_of[10:30, 1] = True
    is_of[0, 2] = True
    scores = np.where(is_of, [0.3, 0.6, 0.9], 0.1).astype(np.float32)
    thresholds = class_thresholds(scores, is_of)
    assert ((scores >= thresholds) == is_of)[:, :2].all()
    assert thresholds[0] == pytest.approx(0.3)
    assert thresholds[1] == pytest.approx(0.6)
    assert thresholds[2] == pytest.approx(0.3)  # of all: one pair says little


def test_a_picture_has_each_class_above_its_threshold() -> None:
    table = pd.DataFrame(
        {
            "path": ["both", "one", "none"],
            "class_1": ["a", "b", "a"],
            "score_1": [0.9, 0.9, 0.1],
            "class_2": ["b", "a", "b"],
            "score_2": [0.8, 0.3, 0.1],
        }
    )
    assessed = apply(table, ["a", "b"], 0.2, np.array([0.5, 0.7], np.float32))
    assert assessed["labels"].tolist() == [["a", "b"], ["b"], []]
    assert assessed["other"].tolist() == [False, False, True]


def test_drift_is_noticed_beyond_noise() -> None:
    random = np.random.default_rng(0)
    same = drift_of("confidence", random.uniform(size=300), random.uniform(size=300))
    moved = drift_of("confidence", random.uniform(size=300) ** 3, random.uniform(size=300))
    assert not same.is_beyond_noise
    assert moved.is_beyond_noise
    assert sum(moved.of_run) == moved.labelled == 300
    assert len(moved.edges) == len(moved.of_run) + 1


def test_a_run_is_assessed(retrieved_project: Project, run: Path) -> None:
    photos = run.parent / "photos"
    done = assess_run(retrieved_project, SLUG, run, "base", photos)
    assessed = pd.read_parquet(run / "assessed.parquet")
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert assessed["path"].tolist() == predictions["path"].tolist()
    assert done.pictures == 3
    assert done.others == assessed["other"].sum()
    assert done.other.no_class == 3
    assert done.several.mean_average_precision is not None
    assert [drift.name for drift in done.drifts] == ["confidence", "distance"]
    written = json.loads((run / "assessment.json").read_text())
    assert written["other"]["threshold"] == done.other.threshold
    assert len(written["several"]["thresholds"]) == len(retrieved_project.domain(SLUG).classes)


def test_a_run_of_another_model_is_refused(retrieved_project: Project, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="--model"):
        assess_run(retrieved_project, SLUG, run, "base")
    (run / "run.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        assess_run(retrieved_project, SLUG, run, "base")


@pytest.mark.parametrize("method", ["gated-image-control", "both"])
def test_a_control_or_ensemble_is_not_assessed(
    retrieved_project: Project, run: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    of = SimpleNamespace(of=("gated-image", "gda") if method == "both" else None)
    monkeypatch.setattr(Project, "method", lambda *_: of)
    classifier = Classifier.load(SLUG, "base", config=retrieved_project.path)
    trained = replace(classifier, origin=Origin(SLUG, method, classifier.origin.fingerprint))
    with pytest.raises(InputError, match="control or an ensemble"):
        held_out_scores(retrieved_project, SLUG, trained)


def test_a_model_of_earlier_pairs_is_refused(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier.load(SLUG, "base", config=retrieved_project.path)
    older = replace(classifier, origin=Origin(SLUG, "gated-image", "0" * 16))
    real = assessment.fresh
    newer = SimpleNamespace(fingerprint="1" * 16)
    monkeypatch.setattr(
        assessment,
        "fresh",
        lambda project, stage, *key: (
            newer if stage == "customized_checkpoint" else real(project, stage, *key)
        ),
    )
    with pytest.raises(InputError, match="other pairs"):
        held_out_scores(retrieved_project, SLUG, older)
