"""The chain of verdicts: of several hosts one decides what follows a verdict, and one that dies in
between holds nobody up.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.promotion import copy_measured, measured_folder, outcomes, result

from react_pipeline.project.project import Project
from react_pipeline.promotion.chain import standing
from react_pipeline.promotion.decision import decide, promote, roll_back
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.store import Artifact, Store

GATED, LOCKED = "gated-image", "locked-text"


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Path:
    project = measured_folder(tmp_path_factory.mktemp("measured"), tiny_checkpoint, drawings)
    result(project, "shapes", LOCKED, outcomes(143))
    return project.path.parent


@pytest.fixture
def project(make_project: Callable[..., Project], measured: Path) -> Project:
    return copy_measured(measured, make_project(methods=["base", GATED]))


def champion(project: Project) -> str:
    return standing(project, "shapes")[0].champion.method


def test_a_decision_of_another_host_is_followed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = Store.create_note, []

    def late(store: Store, name: str, text: str) -> bool:
        calls.append(name)
        if len(calls) == 1:  # another host decides between the look and the claim of this one
            promote(project, "shapes", LOCKED, "it is smaller")
        return create(store, name, text)

    monkeypatch.setattr(Store, "create_note", late)
    last = promote(project, "shapes", GATED, "it is better")
    verdict = Verdict.read(last)
    assert (verdict.champion_before.method, verdict.champion.method) == (LOCKED, GATED)
    assert [entry.champion.method for entry in verdict.history] == [LOCKED]
    assert champion(project) == GATED


def promote_and_die(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process ends after its verdict claimed its place."""
    set_current = Store.set_current

    def killed(store: Store, artifact: Artifact) -> None:
        if artifact.stage == "promotion":
            raise KeyboardInterrupt
        set_current(store, artifact)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_current", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(project, "shapes", LOCKED, "it is smaller", person="Ann")
    assert champion(project) == "base"


def test_a_decision_is_followed_though_its_process_died(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_and_die(project, monkeypatch)
    verdict = Verdict.read(decide(project, "shapes"))
    assert (verdict.by, verdict.person, verdict.champion.method) == ("person", "Ann", LOCKED)
    assert [*project.store.backend.entries(".notes/claims")]
    project.store.prune(keep_seconds=-1)
    assert not [*project.store.backend.entries(".notes/claims")] and champion(project) == LOCKED


@pytest.mark.parametrize("file", ["manifest.json", "_*/verdict.json"])
def test_a_damaged_verdict_takes_no_place(
    project: Project, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    promote_and_die(project, monkeypatch)
    (damaged,) = (project.store.root / "promotion").glob(f"shapes/*/{file}")
    damaged.write_bytes(damaged.read_bytes().replace(b"Ann", b"Bob") + b" ")
    assert Verdict.read(decide(project, "shapes")).by == "rule"


def test_a_verdict_pruned_before_its_claim_is_made_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(project, "shapes")
    create, claims = Store.create_note, []

    def pruned(store: Store, name: str, text: str) -> bool:
        if not claims:
            assert store.prune(keep_seconds=-1)
        claims.append(name)
        return create(store, name, text)

    monkeypatch.setattr(Store, "create_note", pruned)
    made = promote(project, "shapes", GATED, "it is better")
    assert standing(project, "shapes")[1] == made and len(claims) == 2


def test_a_late_process_brings_back_no_older_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_current, later = Store.set_current, []

    def slow(store: Store, artifact: Artifact) -> None:
        if artifact.stage == "promotion" and not later:
            # Others find this claim, and publish the next verdict, before this process goes on.
            later.append(None)
            later[0] = roll_back(project, "shapes", "no better")
        set_current(store, artifact)

    monkeypatch.setattr(Store, "set_current", slow)
    first = promote(project, "shapes", GATED, "it is better")
    assert Verdict.read(first).champion.method == GATED
    assert champion(project) == "base"
    last = standing(project, "shapes")[1]
    assert last is not None and later[0] is not None and last.fingerprint == later[0].fingerprint


def test_after_its_verdicts_were_removed_a_domain_begins_again(project: Project) -> None:
    promote(project, "shapes", LOCKED, "it is smaller")
    shutil.rmtree(project.store.root / "promotion")
    verdict = Verdict.read(decide(project, "shapes"))
    assert (verdict.by, verdict.decision, verdict.history) == ("rule", "promoted", ())
