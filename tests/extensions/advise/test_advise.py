"""Advice before anything is trained: the pairs, the heads that are tried, and the command."""

from __future__ import annotations

import pytest
from support.retrieval import configure
from support.upkeep import edit_domain
from typer.testing import CliRunner, Result

from react_pipeline.commands.cli import app
from react_pipeline.extensions.plan import signs
from react_pipeline.extensions.plan.signs import Tried
from react_pipeline.lineage import fresh, run
from react_pipeline.project import Project
from react_pipeline.store import StaleArtifact


def advise(project: Project) -> Result:
    return CliRunner().invoke(app, ["advise", "shapes", "--config", str(project.path)])


def rebuild(project: Project) -> None:
    for stage in ("evaluation_set", "retrieved_set", "control_set"):
        run(project, stage, "shapes")


def advised(project: Project) -> list[str]:
    done = advise(project)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_heads_are_tried_on_pairs_they_do_not_know(retrieved_project: Project) -> None:
    # Colours are alike in any encoder, so a head fitted to half of them knows the others.
    sets = [fresh(retrieved_project, f"{name}_set", "colours") for name in ("retrieved", "control")]
    tried = signs.try_gda(retrieved_project, "colours", *sets)
    of_all = signs.try_gda(retrieved_project, "colours", sets[0], sets[0])
    assert tried.base < tried.own < of_all.control


@pytest.mark.parametrize("is_better", [True, False])
def test_the_command_publishes_nothing_and_names_what_to_run(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch, is_better: bool
) -> None:
    tried = Tried(0.1, 0.5, 0.2) if is_better else Tried(0.1, 0.5, 0.5)
    monkeypatch.setattr(signs, "try_gda", lambda *_: tried)
    before = sorted(retrieved_project.config.store.rglob("manifest.json"))
    *_, last = advised(retrieved_project)
    if is_better:
        words = last.split()
        assert words[:3] == ["next:", "react-pipeline", "materialize"]
        assert words[-2:] == ["--method", "gda-control"]
    else:
        assert "another corpus" in last
    assert sorted(retrieved_project.config.store.rglob("manifest.json")) == before


def test_classes_that_no_caption_names_are_listed(retrieved_project: Project) -> None:
    classes = ["circle", "trianglee", "heptagon of old"]
    edit_domain(retrieved_project, "shapes", classes=classes, evaluation=None)
    assert isinstance(advise(retrieved_project).exception, StaleArtifact)
    rebuild(retrieved_project)
    lines = advised(retrieved_project)
    for name, count in (("trianglee", 1), ("heptagon of old", 1), ("circle", 0)):
        assert sum(line.strip().startswith(f"{name} ") for line in lines) == count, lines


def test_a_control_of_mostly_the_same_pairs_is_said(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "try_gda", lambda *_: Tried(0.1, 0.5, 0.5))
    configure(retrieved_project, k_per_prompt=96, max_per_class=96, duplicate_similarity=1.01)
    rebuild(retrieved_project)
    assert "a larger corpus" in advised(retrieved_project)[-1]


def test_too_few_pairs_ask_for_names_first(retrieved_project: Project) -> None:
    configure(retrieved_project, min_per_class=100, max_starving_fraction=0.5)
    rebuild(retrieved_project)
    shown = "\n".join(advised(retrieved_project))
    assert "too few pairs" in shown and "materialize" not in shown
