"""The chain of verdicts: of several hosts one decides what follows a verdict, and one that dies in
between holds nobody up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.promotion import copy_measured, measured_folder, outcomes, result

from react_pipeline.project.project import Project
from react_pipeline.promotion import chain
from react_pipeline.promotion.case import standing
from react_pipeline.promotion.decision import decide, promote, roll_back
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.store import Store

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


def killed(*_: object) -> Artifact:
    raise KeyboardInterrupt


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


def test_two_people_at_once_decide_one_after_the_other(project: Project) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(promote, project, "shapes", method, f"for {method}")
            for method in (GATED, LOCKED)
        ]
        fingerprints = {one.result().fingerprint for one in made}
    verdict, last = standing(project, "shapes")
    assert last is not None and last.fingerprint in fingerprints and len(fingerprints) == 2
    assert [entry.by for entry in verdict.history] == ["person"]


def test_the_next_process_publishes_the_claim_of_a_dead_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chain, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(project, "shapes", LOCKED, "it is smaller", person="Ann")
    assert champion(project) == "base"
    kept = decide(project, "shapes")
    verdict = Verdict.read(kept)
    assert (verdict.by, verdict.person, verdict.champion.method) == ("person", "Ann", LOCKED)


def test_a_claim_is_pruned_with_what_it_considered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chain, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(project, "shapes", LOCKED, "it is smaller")
    result(project, "shapes", LOCKED, outcomes(110))
    project.store.prune(keep_seconds=0)
    assert Verdict.read(decide(project, "shapes")).champion.method == GATED


def test_a_late_publication_brings_back_no_older_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, later = Store.build, []

    def slow(store: Store, inputs: Inputs, *arguments: object) -> Artifact:
        if inputs.stage == "promotion" and not later:
            # Others publish this claim, and the next verdict, before this process does.
            later.append(None)
            later[0] = roll_back(project, "shapes", "no better")
        return build(store, inputs, *arguments)

    monkeypatch.setattr(Store, "build", slow)
    first = promote(project, "shapes", GATED, "it is better")
    assert Verdict.read(first).champion.method == GATED
    assert champion(project) == "base"
    last = standing(project, "shapes")[1]
    assert last is not None and later[0] is not None and last.fingerprint == later[0].fingerprint


def test_a_removed_verdict_is_made_again_from_its_claim(project: Project) -> None:
    promote(project, "shapes", GATED, "it is better")
    last = promote(project, "shapes", LOCKED, "it is smaller")
    assert json.loads(last.file("verdict.json").read_text())["decision"] == "promoted"
    shutil.rmtree(project.store.root / "promotion")
    assert decide(project, "shapes").fingerprint == last.fingerprint
    assert champion(project) == LOCKED
