"""Accuracy on labelled images while a training runs: what it shows, and that nothing
depends on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.training import prepared, records

from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.labelled import read_images
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError
from react_pipeline.training import customize

Make = Callable[..., Project]
WEIGHTS = "open_clip_model.safetensors"
TRAINING = {"learning_rate": 0.01, "augmentation": "timm"}


@pytest.fixture
def trained(make_project: Make, _retrieved_store: Path) -> Callable[..., tuple[Project, Artifact]]:
    def train(method: str, **fields: Any) -> tuple[Project, Artifact]:
        project = prepared(make_project, _retrieved_store, **{**TRAINING, **fields})
        return project, customize(project, "shapes", method)

    return train


def accuracies(artifact: Artifact) -> dict[int, float]:
    return {
        record["step"]: record["evaluation_top1"]
        for record in records(artifact)
        if "evaluation_top1" in record
    }


@pytest.mark.parametrize("method", ["gated-image", "locked-image", "full"])
def test_it_is_the_accuracy_of_the_result_and_changes_no_weight(
    trained: Callable[..., tuple[Project, Artifact]], method: str
) -> None:
    _, plain = trained(method)
    weights = plain.file(WEIGHTS).read_bytes()
    assert accuracies(plain) == {}
    project, watched = trained(method, evaluate_every=2)
    assert watched.fingerprint == plain.fingerprint
    assert watched.file(WEIGHTS).read_bytes() == weights
    found = accuracies(watched)
    assert list(found) == [1, 3]
    assert found[3] == EvalResult.read(evaluate(project, "shapes", method)).top1


def test_an_unavailable_set_is_reported_and_training_goes_on(
    trained: Callable[..., tuple[Project, Artifact]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unavailable = SimpleNamespace(counts={"unavailable": "no such folder"})
    monkeypatch.setattr(
        "react_pipeline.extensions.live_runs.training_probe.fresh", lambda *_: unavailable
    )
    _, artifact = trained("gated-image", evaluate_every=2)
    assert artifact.counts["steps"] == 4
    assert accuracies(artifact) == {}
    assert "evaluate_every" in caplog.text and "no such folder" in caplog.text


def test_a_labelled_image_that_changed_is_refused(
    make_project: Make, _retrieved_store: Path, tmp_path: Path
) -> None:
    project = prepared(make_project, _retrieved_store, **TRAINING, evaluate_every=2)
    images = read_images(project.store.current("evaluation_set", "shapes"))
    place = Path(images["path"][0]).parents[1]
    folder = shutil.copytree(place, tmp_path / "labelled")
    domain = project.config.domains / "shapes.yaml"
    domain.write_text(domain.read_text().replace(str(place), str(folder)))
    changed = sorted(folder.rglob("*.png"))[3]
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(InputError, match=changed.name):
        customize(project, "shapes", "gated-image")
