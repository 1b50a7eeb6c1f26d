"""The chain of verdicts: of several hosts one decides what follows a verdict, and one that dies in
between holds nobody up.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from support.promotion import measure

from react_pipeline.project import Project
from react_pipeline.promotion import Verdict, decide, promote, roll_back, standing
from react_pipeline.store import Artifact, Store

GATED, LOCKED = "gated-image", "locked-text"


@pytest.fixture
def project(measured_project: Project) -> Project:
    measure(measured_project, LOCKED, 143)
    return measured_project


def champion(project: Project) -> str:
    return standing(project, "shapes")[0].champion.method


def before(patch: pytest.MonkeyPatch, call: str, happens: Callable[[], object]) -> None:
    """Let something happen once, before the store does this for a verdict."""
    real, pending = getattr(Store, call), [happens]

    def late(store: Store, about: Any, *given: Any, **options: Any) -> Any:
        if pending and about.stage == "promotion":
            pending.pop()()
        return real(store, about, *given, **options)

    patch.setattr(Store, call, late)


def test_a_decision_of_another_host_is_followed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = partial(promote, project, "shapes", LOCKED, "it is smaller")
    before(monkeypatch, "build", other)  # between the look and the verdict of this one
    verdict = Verdict.read(promote(project, "shapes", GATED, "it is better"))
    assert (verdict.champion_before.method, verdict.champion.method) == (LOCKED, GATED)
    assert [entry.champion.method for entry in verdict.history] == [LOCKED]
    assert champion(project) == GATED


def promote_and_die(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process ends after its verdict was published."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before(patch, "set_current", Mock(side_effect=KeyboardInterrupt))
        promote(project, "shapes", LOCKED, "it is smaller", person="Ann")
    assert champion(project) == "base"


def test_a_decision_is_followed_though_its_process_died(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_and_die(project, monkeypatch)
    verdict = Verdict.read(decide(project, "shapes"))
    assert (verdict.by, verdict.person, verdict.champion.method) == ("person", "Ann", LOCKED)
    project.store.prune(keep_seconds=-1)
    assert champion(project) == LOCKED


def test_files_of_a_decision_that_died_unpublished_serve_no_other(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(project.store.backend), "create", Mock(side_effect=KeyboardInterrupt))
        promote(project, "shapes", LOCKED, "it is smaller", person="Ann")
    verdict = Verdict.read(promote(project, "shapes", GATED, "it is better", person="Bob"))
    assert (verdict.person, verdict.champion.method) == ("Bob", GATED)


@pytest.mark.parametrize("file", ["manifest.json", "_*/verdict.json"])
def test_a_damaged_verdict_takes_no_place(
    project: Project, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    promote_and_die(project, monkeypatch)
    (damaged,) = (project.store.root / "promotion").glob(f"shapes/*/{file}")
    damaged.write_bytes(damaged.read_bytes().replace(b"Ann", b"Bob") + b" ")
    assert Verdict.read(decide(project, "shapes")).by == "rule"


def test_a_verdict_pruned_before_it_is_current_is_made_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(project, "shapes")
    removed: list[str] = []
    build = Store.build

    def build_and_prune(store: Store, *given: Any, **options: Any) -> Artifact:
        built = build(store, *given, **options)
        if not removed and built.stage == "promotion":
            removed.extend(store.prune(keep_seconds=-1))
        return built

    monkeypatch.setattr(Store, "build", build_and_prune)
    made = promote(project, "shapes", GATED, "it is better")
    assert removed and standing(project, "shapes")[1] == made


def test_a_late_process_brings_back_no_older_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[Artifact] = []
    # Others find this verdict, and publish the next verdict, before this process goes on.
    before(
        monkeypatch,
        "set_current",
        lambda: later.append(roll_back(project, "shapes", "no better")),
    )
    first = promote(project, "shapes", GATED, "it is better")
    assert Verdict.read(first).champion.method == GATED
    assert champion(project) == "base"
    assert [standing(project, "shapes")[1]] == later


def test_after_its_verdicts_were_removed_a_domain_begins_again(project: Project) -> None:
    promote(project, "shapes", LOCKED, "it is smaller")
    shutil.rmtree(project.store.root / "promotion")
    verdict = Verdict.read(decide(project, "shapes"))
    assert (verdict.by, verdict.decision, verdict.history) == ("rule", "promoted", ())
