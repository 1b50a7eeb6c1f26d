"""Promotion: who becomes champion, who stays, and what a person may decide."""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from support.new_methods import installed, module_of_page
from support.promotion import (
    candidates,
    checkpoint,
    evaluation_set,
    measure,
    outcomes,
    result,
)
from support.upkeep import change_pipeline

from react_pipeline.assets.evaluation import find_doubt
from react_pipeline.evaluation import EvalResult
from react_pipeline.pages import escaped
from react_pipeline.project import Project
from react_pipeline.promotion import Verdict, decide, promote, promotion_is_current, roll_back
from react_pipeline.settings import trained_methods
from react_pipeline.store import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    StaleArtifact,
    durable,
)

GATED, CONTROL, LOCKED = "gated-image", "gated-image-control", "locked-text"


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """The base of `shapes` gets 100 of 200 images right."""
    made = make_project(methods=["base", GATED])
    measure(made, "base", 100)
    return made


def decided(project: Project) -> Verdict:
    return Verdict.read(decide(project, "shapes"))


def promoted(project: Project, method: str = GATED, right: int = 140) -> Verdict:
    measure(project, method, right)
    verdict = decided(project)
    assert (verdict.decision, verdict.champion.method) == ("promoted", method)
    return verdict


def test_a_clear_gain_over_the_base_makes_a_champion(measured_project: Project) -> None:
    mine = measured_project.store.current("domain_results", f"shapes/{GATED}")
    artifact = decide(measured_project, "shapes")
    verdict = Verdict.read(artifact)
    assert (verdict.decision, verdict.by) == ("promoted", "rule")
    assert (verdict.champion_before.method, verdict.champion.method) == ("base", GATED)
    assert verdict.champion.result == mine.fingerprint
    assert verdict.champion.checkpoint == mine.parents["customized_checkpoint"]
    assert verdict.test is not None
    assert verdict.test.gain == pytest.approx(0.2)
    assert 0 < verdict.test.low < 0.2 < verdict.test.high
    assert verdict.test.n == 200
    for figure in ("70.0%", "50.0%", "+20.0 points", "200 images", "interval", "becomes champion"):
        assert figure in verdict.reason
    assert artifact.parents["base"] and artifact.parents[GATED] == mine.fingerprint


def test_a_champion_stays_when_its_extension_is_gone(project: Project) -> None:
    with installed("mine", module_of_page()["Mine"]()):
        champion = promoted(project, "class-means").champion
    # Everything of it is published, so it can be compared, though it cannot be trained again.
    measure(project, GATED, 130)
    verdict = decided(project)
    assert (verdict.decision, verdict.champion.checkpoint) == ("kept", champion.checkpoint)
    measure(project, GATED, 190)
    verdict = decided(project)
    assert (verdict.decision, verdict.champion.method) == ("promoted", GATED)
    assert verdict.previous_champions[-1].method == "class-means"


@pytest.mark.parametrize(
    ("settings", "right", "decision", "words"),
    [
        ({}, {}, "nothing", "no other candidate"),
        ({}, {GATED: 90}, "kept", "no more images"),
        ({}, {GATED: 104}, "challenger", "not beyond the noise"),  # 14 won and 10 lost
        ({"min_gain": 0.15}, {GATED: 140}, "challenger", "15.0 points"),
        ({"min_gain": 0.05}, {GATED: 140}, "promoted", "becomes champion"),
        ({}, {GATED: 140, CONTROL: 138}, "challenger", "control"),
        ({}, {GATED: 140, CONTROL: 105}, "promoted", "over its control"),
        ({"over_control": False}, {GATED: 140, CONTROL: 138}, "promoted", "becomes champion"),
        ({"enabled": False}, {GATED: 140}, "challenger", "a person decides"),
        ({"methods": [LOCKED]}, {GATED: 180}, "nothing", "no other candidate"),
    ],
    ids=str,
)
def test_what_the_rule_says(
    project: Project,
    settings: dict[str, Any],
    right: dict[str, int],
    decision: str,
    words: str,
) -> None:
    project = change_pipeline(project, promotion=settings)
    for method, count in right.items():
        result(project, "shapes", method, outcomes(count, first=10 if count == 104 else 0))
    verdict = decided(project)
    assert (verdict.decision, words in verdict.reason) == (decision, True)
    assert verdict.champion.method == (GATED if decision == "promoted" else "base")


def test_a_control_that_is_missing_or_out_of_date_blocks(project: Project) -> None:
    project = change_pipeline(project, methods=["base", GATED, CONTROL])
    measure(project, GATED, 140)
    verdict = decided(project)
    assert verdict.decision == "challenger" and "its control cannot be compared" in verdict.reason
    measure(project, CONTROL, 105)
    checkpoint(project, "shapes", CONTROL, seed=1)
    measure(project, GATED, 141)
    verdict = decided(project)
    assert verdict.decision == "challenger" and "rematerialize" in verdict.reason
    measure(project, CONTROL, 105, seed=1)
    assert decided(project).decision == "promoted"


def test_candidates_share_confidence_and_best_that_passes_wins(project: Project) -> None:
    measure(project, GATED, 140)
    measure(project, LOCKED, 145)
    measure(project, "locked-text-control", 144)
    measure(project, "full", 101)
    artifact = decide(project, "shapes")
    verdict = Verdict.read(artifact)
    assert verdict.champion.method == GATED  # locked-text has more, but its control has as much
    assert verdict.candidates == 3 and "3 candidates" in verdict.reason
    assert verdict.test is not None and verdict.test.confidence == pytest.approx(1 - 0.05 / 3)
    assert {method: status for method, (status, *_) in candidates(artifact).items()} == {
        **dict.fromkeys(trained_methods(), "left out"),
        **{LOCKED: "challenger", GATED: "promoted", "full": "challenger"},
    }
    assert escaped(verdict.reason) in artifact.file("table.md").read_text()
    assert json.loads(artifact.file("verdict.json").read_text())["decision"] == "promoted"


def test_stale_and_missing_results_are_no_candidates(project: Project) -> None:  # FAULTS 27, 31
    measure(project, GATED, 180)
    checkpoint(project, "shapes", GATED, seed=1)  # trained again and not evaluated
    measure(project, LOCKED, None)
    artifact = decide(project, "shapes")
    verdict = Verdict.read(artifact)
    assert (verdict.decision, verdict.champion.method) == ("nothing", "base")
    why = {method: cells[-1] for method, cells in candidates(artifact).items()}
    assert "rematerialize" in why[GATED]
    assert "no images" in why[LOCKED]
    assert why["linear-head"] == "never evaluated"


@pytest.mark.parametrize("name", ["manifest.json", "predictions.parquet"])
def test_nothing_is_decided_while_a_disk_cannot_read_a_result(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # FAULTS 50
    artifact = measure(project, GATED, 140)
    unreadable = (artifact.path.parent if name == "manifest.json" else artifact.path) / name
    opened = open

    def failing(path: Any, *given: Any, **named: Any) -> Any:
        if str(path) == str(unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing)
        durable._known.cache_clear()
        for memory in project.config.store.rglob(".digests.jsonl"):
            memory.unlink()
        with pytest.raises(CorruptArtifact, match=name):
            decide(project, "shapes")
    assert not project.store.has("promotion", "shapes")
    assert decided(project).champion.method == GATED


def test_other_evaluation_images_make_a_champion_incomparable(
    project: Project,
) -> None:  # 32
    old = promoted(project).champion
    evaluation_set(project, "shapes", version=2)
    measure(project, "base", 100)
    measure(project, GATED, 190, seed=1)
    artifact = decide(project, "shapes")
    verdict = Verdict.read(artifact)
    assert (verdict.decision, verdict.champion.checkpoint) == ("incomparable", old.checkpoint)
    assert "evaluation_set_fingerprint" in verdict.reason
    assert 'models promote shapes METHOD --reason "..."`' in verdict.reason
    assert artifact.parents["champion"] == old.result
    by_hand = Verdict.read(promote(project, "shapes", GATED, "newer photographs"))
    assert by_hand.test is None and "evaluation_set_fingerprint" in by_hand.reason
    measure(project, LOCKED, 195, evaluator_version="next")
    verdict = decided(project)
    assert verdict.decision == "incomparable" and "evaluator_version" in verdict.reason


def test_a_base_that_is_not_measured_is_asked_for(make_project: Callable[..., Project]) -> None:
    project = make_project(methods=["base", GATED])
    measure(project, GATED, 140)
    verdict = decided(project)
    assert "materialize `domain_results` for 'shapes' and base" in verdict.reason


def test_a_verdict_is_stale_once_a_newer_result_comes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingArtifact, match="promotion"):
        promotion_is_current(project, "shapes")
    promoted(project)
    with monkeypatch.context() as patch:  # each tick asks of every domain
        patch.setattr(EvalResult, "read", Mock(side_effect=AssertionError))
        first = promotion_is_current(project, "shapes")
    assert first.counts["champion"] == GATED
    again = decide(project, "shapes")
    assert again.reused and again.fingerprint == first.fingerprint
    measure(project, LOCKED, 120)
    with pytest.raises(StaleArtifact, match=LOCKED):
        promotion_is_current(project, "shapes")
    with pytest.raises(StaleArtifact, match="confidence"):
        promotion_is_current(change_pipeline(project, promotion={"confidence": 0.9}), "shapes")
    decide(project, "shapes")
    assert promotion_is_current(project, "shapes").counts["decision"] == "kept"


def test_a_retrained_method_replaces_its_own_champion_which_pruning_keeps(project: Project) -> None:
    first = promoted(project).champion
    measure(project, GATED, 142, seed=3)
    kept = decided(project)
    assert (kept.decision, kept.champion) == ("challenger", first)
    measure(project, GATED, 175, seed=1)
    verdict = decided(project)
    assert (verdict.decision, verdict.champion_before) == ("promoted", first)
    assert verdict.test is not None and verdict.test.gain == pytest.approx(0.175)
    assert [entry.champion for entry in verdict.history] == [first]
    second = verdict.champion
    measure(project, GATED, 176, seed=2)
    verdict = decided(project)
    assert verdict.decision == "challenger" and verdict.challenger is not None
    unused = checkpoint(project, "shapes", LOCKED)
    checkpoint(project, "shapes", LOCKED, seed=1)
    project.store.prune(keep_seconds=0)
    for model in (first, second, verdict.challenger):
        project.store.open("customized_checkpoint", f"shapes/{GATED}", model.checkpoint)
        project.store.open("domain_results", f"shapes/{GATED}", model.result)
    assert unused.fingerprint not in project.store.versions(unused.stage, unused.key)
    assert Verdict.read(roll_back(project, "shapes")).champion == first
    project.store.prune(keep_seconds=0)
    project.store.open("customized_checkpoint", f"shapes/{GATED}", first.checkpoint)


def test_rolling_back_is_not_undone_by_the_rule(
    project: Project,
) -> None:
    first = promoted(project).champion
    promoted(project, LOCKED, 180)
    back = Verdict.read(roll_back(project, "shapes", "slow on the phone", person="Ann"))
    assert (back.decision, back.by, back.person) == ("rolled back", "person", "Ann")
    assert back.champion.checkpoint == first.checkpoint
    assert "Ann rolled back" in back.reason and "slow on the phone" in back.reason
    assert decide(project, "shapes").counts["decision"] == "rolled back"
    measure(project, "full", 120)  # news, so the rule looks again
    verdict = decided(project)
    assert verdict.champion.checkpoint == first.checkpoint
    assert [entry.decision for entry in verdict.history] == ["promoted", "promoted", "rolled back"]
    assert [entry.person for entry in verdict.history] == ["", "", "Ann"]
    assert Verdict.read(roll_back(project, "shapes")).champion.method == "base"
    with pytest.raises(InputError, match="nothing to roll back"):
        roll_back(project, "shapes")


def test_a_promotion_against_the_rule_is_recorded_as_such(project: Project) -> None:
    measure(project, GATED, 95)
    assert decided(project).champion.method == "base"
    verdict = Verdict.read(
        promote(project, "shapes", GATED, "better on the photographs we care for")
    )
    assert (verdict.decision, verdict.by, verdict.champion.method) == ("promoted", "person", GATED)
    for words in ("a person", "photographs", "-2.5 points"):
        assert words in verdict.reason
    assert decide(project, "shapes").counts["champion"] == GATED
    with pytest.raises(InputError, match="champion already"):
        promote(project, "shapes", GATED, "once more")


def test_a_person_cannot_promote_an_unfit_candidate(
    project: Project,
) -> None:
    with pytest.raises(InputError, match="gated-image-control"):
        promote(project, "shapes", CONTROL, "x")
    with pytest.raises(InputError, match="reason"):
        promote(project, "shapes", GATED, " ")
    with pytest.raises(MissingArtifact):
        promote(project, "shapes", GATED, "x")
    measure(project, LOCKED, None)
    with pytest.raises(InputError, match="unavailable"):
        promote(project, "shapes", LOCKED, "x")
    promoted(project)
    checkpoint(project, "shapes", GATED, seed=1)
    with pytest.raises(StaleArtifact):
        promote(project, "shapes", GATED, "x")


def test_a_damaged_verdict_is_never_read_as_no_champion(project: Project) -> None:  # 33
    promoted(project)
    artifact = promotion_is_current(project, "shapes")
    artifact.file("verdict.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match="'shapes'"):
        decide(project, "shapes")


def test_a_champion_is_in_doubt_when_results_are_newer(project: Project) -> None:
    measure(project, GATED, 140)
    assert "not been materialized" in find_doubt(project, "shapes")
    decide(project, "shapes")
    assert find_doubt(project, "shapes") == ""
    measure(project, "base", 150)
    assert "rematerialize" in find_doubt(project, "shapes")
    decide(project, "shapes")
    assert "the base has 5.0 points more" in find_doubt(project, "shapes")
