"""`react-pipeline status`: what is behind, why, and the command that fixes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from support.commands import assert_loads_no_torch, status
from support.scenes import Scene
from support.upkeep import METHODS, build, build_all, change_pipeline, edit_domain

from react_pipeline.project.project import Project
from react_pipeline.store import TrainingError

FIX = "react-pipeline materialize --domain shapes"


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project(methods=list(METHODS))
    (project.config.domains / "colours.yaml").unlink()
    build_all(project, ["shapes"])
    return project


def starting(lines: list[str], words: str) -> list[str]:
    return [line for line in lines if line.startswith(words)]


def test_stale_and_waiting_stages_are_shown_with_the_command(
    project: Project,
) -> None:
    edit_domain(project, "shapes", templates=["another {}"])
    lines = status(project)
    (due,) = starting(lines, "shapes out of date retrieved_set")
    assert "another `templates`" in due and "rematerialize" not in due
    (waiting,) = starting(lines, "shapes waiting")
    assert "customized_checkpoint of gated-image, domain_results of gated-image, " in waiting
    assert starting(lines, "next:") == [f"next: {FIX}"]


def test_what_the_policy_holds_back_is_reported_with_its_reason(project: Project) -> None:
    edit_domain(project, "shapes", retrieval={"max_per_class": 5})
    build(project, "retrieved_set", "shapes", images=("a", "b", "c"))
    lines = status(change_pipeline(project, automation={"training": "never"}))
    training, results = (
        starting(lines, f"shapes held back {stage} of gated-image")
        for stage in ("customized_checkpoint", "domain_results")
    )
    assert results and "`never`" in training[0]
    assert f"next: {FIX} (trains gated-image too, which the policy holds back)" in lines


def test_file_that_is_not_valid_is_reported_and_hides_no_other(project: Project) -> None:
    (project.config.domains / "broken.yaml").write_text("classes: []\n")
    lines = status(project)
    (broken,) = starting(lines, "broken not readable")
    assert "classes" in broken
    commands = f"next: react-pipeline domains validate && {FIX}"
    assert starting(lines, "next:") == [commands]
    assert starting(lines, "shapes out of date promotion")


def test_what_failed_is_reported_and_stops_nothing_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("customized_checkpoint", "shapes/gated-image")
    shutil.rmtree(project.config.store / place[0])
    with Scene.of(project, monkeypatch) as scene:
        scene.faults[place] = TrainingError("the loss is not finite")
        scene.play()
    lines = status(project)
    (failed,) = starting(lines, f"shapes failed {place[0]}")
    assert "the loss is not finite" in failed
    assert starting(lines, "shapes failed domain_results of gated-image")
    steps = {"steps": 9, "batch_size": 8, "warmup_steps": 1}
    changed = change_pipeline(project, customization={"defaults": steps})
    assert not [line for line in status(changed) if "the loss is not finite" in line]


def test_it_loads_no_torch(project: Project) -> None:
    assert_loads_no_torch("status", "--config", str(project.path))
