"""Forgetting is measured on guard sets, shown beside each result, and may hold a model back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.drawings import write_evaluation_folder
from support.judging import judge, without_labels
from support.promotion import checkpoint, outcomes, result, write_measured

from react_pipeline.evaluation import comparison
from react_pipeline.evaluation.comparison import compare, comparison_is_current
from react_pipeline.evaluation.domain_results import EVALUATOR_VERSION
from react_pipeline.extensions.automation.survey import places
from react_pipeline.extensions.guards.extension import GUARD_RESULTS
from react_pipeline.extensions.guards.results import GUARD_DROPS
from react_pipeline.extensions.hub.export import export
from react_pipeline.lineage import fresh, resolve, run
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide, promotion_is_current
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.stage import left_out_stages
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import ConfigError, InputError, StaleArtifact

GATED, CONTROL, HEAD = "gated-image", "gated-image-control", "linear-head"
PHOTOS: dict[str, Any] = {"name": "photos", "kind": "folder", "path": "photos"}
Make = Callable[..., Project]


@pytest.fixture
def make(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    # The stand-ins of results have no pairs to show.
    monkeypatch.setattr(comparison, "_retrieved_sets", lambda *_: {})

    def build(max_drop: float | None = 0.02, **sections: Any) -> Project:
        rule = {} if max_drop is None else {"max_drop": max_drop}
        sections = {"methods": ["base", GATED]} | sections
        return make_project(guards={"sets": [PHOTOS]}, promotion=rule, **sections)

    return build


def guarded(project: Project, method: str, right: int | None, images: str = "1") -> Artifact:
    """A result on the guard set: so many of 200 images right; None: unavailable."""
    key = f"shapes/{method}"
    content = {"photos": images}
    inputs = resolve(project, GUARD_RESULTS, key, content=content)
    model = inputs.parents.get("customized_checkpoint") or inputs.parents["base_checkpoint"]
    about = {
        "dataset": "photos",
        "domain": "photos",
        "method": method,
        "n_classes": 3,
        "evaluator_version": EVALUATOR_VERSION,
        "checkpoint_fingerprint": model.fingerprint,
        "evaluation_set_fingerprint": images,
    }

    def write(directory: Path, _: object) -> dict[str, Any]:
        folder = directory / "photos"
        folder.mkdir()
        write_measured(folder, about, ["a", "b", "c"], None if right is None else outcomes(right))
        return {"photos": {"right": right}}

    return project.store.build(inputs, write)


def ahead(project: Project, *methods: str) -> None:
    """Results in which these methods are far better than the base on the domain."""
    result(project, "shapes", "base", outcomes(100))
    for method in methods:
        result(project, "shapes", method, outcomes(150))


def verdict_of(project: Project) -> Verdict:
    return Verdict.read(decide(project, "shapes"))


@pytest.mark.parametrize(("right", "champion"), [(146, GATED), (145, "base")])
def test_a_model_that_forgets_is_held_back(make: Make, right: int, champion: str) -> None:
    project = make(max_drop=0.02)
    ahead(project, GATED)
    guarded(project, "base", 150)
    guarded(project, GATED, right)
    verdict = verdict_of(project)
    assert verdict.champion.method == champion
    if champion == "base":
        assert verdict.decision == "challenger" and "2.5 points" in verdict.reason
        assert "photos" in verdict.reason and "promotion.max_drop" in verdict.reason


@pytest.mark.parametrize("known", ["nothing", "unavailable", "other images", "no base"])
def test_what_is_not_known_is_no_drop_of_zero(make: Make, known: str) -> None:
    project = make()
    ahead(project, GATED)
    if known != "no base":
        guarded(project, "base", 150)
    if known != "nothing":
        right = None if known == "unavailable" else 150
        guarded(project, GATED, right, "2" if known == "other images" else "1")
    verdict = verdict_of(project)
    assert verdict.champion.method == "base" and "not known" in verdict.reason
    artifact = compare(project, "shapes")
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    assert np.isnan(table.loc[GATED, "guard_delta"])
    if known == "unavailable":
        page = artifact.file("dashboard.html").read_text()
        assert "unavailable: no images" in page and "no images" in verdict.reason


def test_the_drop_is_shown_for_methods_and_controls(make: Make) -> None:
    project = make(max_drop=None)
    ahead(project, GATED, CONTROL)
    before = compare(project, "shapes")
    for method, right in (("base", 150), (GATED, 140), (CONTROL, 120)):
        guarded(project, method, right)
    with pytest.raises(StaleArtifact):
        comparison_is_current(project, "shapes")
    artifact = compare(project, "shapes")
    assert artifact.fingerprint != before.fingerprint
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    assert table["guard_delta"].round(6).to_dict() | {"base": 0} == {
        "base": 0,
        GATED: -0.05,
        CONTROL: -0.15,
    }
    assert table.loc[GATED, "guard_delta_low"] < -0.05 < table.loc[GATED, "guard_delta_high"]
    assert "-5.0 (" in artifact.file("table.md").read_text()
    assert artifact.counts["guard_delta"][GATED] == pytest.approx(-0.05)
    page = artifact.file("dashboard.html").read_text()
    assert "Outside the domain</h2>" in page and "70.0%" in page
    drops = project.store.current(GUARD_DROPS, "shapes")
    assert drops.counts["worst"][CONTROL] == pytest.approx(-0.15)


def test_a_new_result_on_a_guard_set_asks_for_a_new_verdict(make: Make) -> None:
    project = make()
    ahead(project, GATED)
    guarded(project, "base", 150)
    guarded(project, GATED, 0)
    artifact = decide(project, "shapes")
    assert promotion_is_current(project, "shapes").fingerprint == artifact.fingerprint
    checkpoint(project, "shapes", GATED, seed=1)
    result(project, "shapes", GATED, outcomes(150), seed=1)
    guarded(project, GATED, 150)
    with pytest.raises(StaleArtifact):
        promotion_is_current(project, "shapes")
    assert verdict_of(project).champion.method == GATED


def test_a_judged_model_that_forgets_is_held_back(make: Make) -> None:
    project = without_labels(make(), [GATED])
    for method in ("base", GATED):
        result(project, "shapes", method, None)
    judge(project, GATED, "base", ["won"] * 120 + ["lost"] * 5)
    guarded(project, "base", 150)
    guarded(project, GATED, 0)
    verdict = verdict_of(project)
    assert verdict.champion.method == "base" and "held back" in verdict.reason


def test_a_limit_without_a_guard_set_is_refused(make_project: Make) -> None:
    project = make_project(promotion={"max_drop": 0.1})
    result(project, "shapes", "base", outcomes(100))
    with pytest.raises(InputError, match="guards.sets"):
        decide(project, "shapes")


def test_without_guard_sets_nothing_changes(make_project: Make) -> None:
    plain = make_project()
    assert GUARD_RESULTS in left_out_stages(plain.config)
    named = make_project(guards={"sets": [PHOTOS]})
    kept = [key for stage, key in places(named, ["shapes"]) if stage == GUARD_RESULTS]
    assert kept == ["shapes/base", f"shapes/{GATED}", f"shapes/{CONTROL}"]


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        ([{**PHOTOS, "kind": "manifest"}], "classes"),
        ([{**PHOTOS, "name": "My photos"}], "a-z"),
        ([{**PHOTOS, "path": None}], "path"),
        ([PHOTOS, PHOTOS], "name"),
    ],
)
def test_a_wrong_guard_set_is_one_clear_error(
    make_project: Make, sets: list[dict[str, Any]], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        make_project(guards={"sets": sets})


def test_a_real_set_is_measured_with_its_own_classes(
    make_project: Make, _retrieved_store: Path, tmp_path: Path
) -> None:
    absent = {"name": "absent", "kind": "folder", "path": "nowhere"}
    project = make_project(guards={"sets": [PHOTOS, absent]})
    shutil.copytree(_retrieved_store, project.config.store)
    photos = write_evaluation_folder(project.path.parent / "photos", ["circle", "square"])
    (photos / "circle").rename(photos / "red_circle")
    run(project, "customized_checkpoint", f"shapes/{GATED}")
    for method in ("base", GATED):
        run(project, GUARD_RESULTS, f"shapes/{method}")
    artifact = fresh(project, GUARD_RESULTS, f"shapes/{GATED}")
    measured = json.loads(artifact.file("photos/result.json").read_text())
    classes = pd.read_parquet(artifact.file("photos/per_class.parquet"))["class"]
    assert classes.tolist() == ["red circle", "square"]
    assert 0 <= measured["top1"] <= 1 and measured["n"] == artifact.counts["photos"]["n"] > 0
    assert measured["checkpoint_fingerprint"] == artifact.parents["customized_checkpoint"]
    assert "nowhere" in artifact.counts["absent"]["unavailable"]
    assert run(project, GUARD_RESULTS, f"shapes/{GATED}").reused
    card = (export(project, "shapes", GATED, tmp_path / "exported") / "README.md").read_text()
    assert "on the guard set photos: top" in card.replace("\\", "") and "nowhere" in card
    before = artifact.fingerprint
    (photos / "square" / "0.png").unlink()
    assert run(project, GUARD_RESULTS, f"shapes/{GATED}").fingerprint != before


def test_a_head_forgets_nothing(make: Make) -> None:
    project = make()
    ahead(project, HEAD)
    assert verdict_of(project).champion.method == HEAD
