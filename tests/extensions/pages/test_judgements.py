"""Judgements: the log, what follows from it, the artifact, the comparison that shows it, and the
promotion of a domain without labels, at the level of the number of sessions.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.judging import SLUG, header_of, judge, say, unavailable, without_labels
from support.promotion import candidates, outcomes, result, stand_in
from support.upkeep import change_pipeline, edit_domain

import react_pipeline.evaluation.comparison as comparison
from react_pipeline.evaluation.comparison import compare, comparison_is_current
from react_pipeline.extensions.pages import session as sessions
from react_pipeline.extensions.pages.judge import open_judge
from react_pipeline.extensions.pages.judgements import STATUS, read_judgements
from react_pipeline.extensions.pages.session import Session, Side, create_log
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide, promote, promotion_is_current, roll_back
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.store.errors import CorruptArtifact, InputError, StaleArtifact, StoreWriteError
from react_pipeline.tracking.values import difference_rows
from react_pipeline.use import chosen_checkpoint

GATED, CONTROL, LOCKED = "gated-image", "gated-image-control", "locked-text"
SIDES = Side(method=GATED, checkpoint="one"), Side(method="base", checkpoint="other")


@pytest.fixture
def project(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    # The stand-in has no pairs to show.
    monkeypatch.setattr(comparison, "_retrieved_sets", lambda *_: {})
    project = without_labels(make_project(), [GATED, CONTROL, LOCKED])
    unavailable(project, "base", GATED, LOCKED)
    return project


@pytest.fixture
def log(project: Project, tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    create_log(path, header_of(project, *SIDES, disagreements=5, images=50))
    return path


def test_a_full_judgement_is_exact_and_unsure_counts_both_ways(log: Path) -> None:
    with open_judge(log, "a tester", 1) as opened:
        for picture, answer in enumerate((0, 0, "neither", 1, "unsure")):
            say(opened, picture, answer)
        found = opened.session.test()
        assert (found.low, found.high, opened.session.is_clear) == (0, 2 / 50, True)
        say(opened, 4, None)
        assert not opened.session.is_clear
        say(opened, 4, 0)
        found = opened.session.test()
        assert (found.gain, found.low, found.high) == pytest.approx((2 / 50, 2 / 50, 2 / 50))
    session = Session.read(log)
    counts = {"judged": 5, "won": 3, "lost": 1, "neither": 1, "unsure": 0}
    assert session.counts.items() >= counts.items() and session == opened.session
    assert {entry.judge for entry in session.entries} == {"a tester"}


def test_a_full_disk_loses_no_answer_and_leaves_no_part_of_one(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_judge(log, "a tester", 1) as opened:
        say(opened, 0, 0)
        before, write = log.read_bytes(), os.write

        def fail(descriptor: int, data: bytes) -> int:
            write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(StoreWriteError, match="space"):
            say(opened, 1, 1)
        assert log.read_bytes() == before
        monkeypatch.undo()
        assert say(opened, 1, 1) and Session.read(log) == opened.session
    # What a kill leaves of a line was never given.
    log.write_bytes(log.read_bytes() + b'{"picture": 2, "ans')
    assert Session.read(log) == opened.session


def test_a_damaged_log_is_named(project: Project) -> None:
    path = judge(project, GATED, "base", ["won"] * 3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(CorruptArtifact, match=path.name):
        read_judgements(project, SLUG)


def test_the_artifact_follows_the_logs_and_holds_them(project: Project) -> None:
    assert read_judgements(project, SLUG) is None
    judge(project, GATED, "base", ["won"] * 9 + ["lost", "unsure"])
    found = read_judgements(project, SLUG)
    assert found is not None
    artifact = found.publish(project)
    assert found.publish(project).reused
    session = found.sessions[0]
    (row,) = (value for value in artifact.counts.values() if isinstance(value, dict))
    assert (row["judged"], row["disagreements"], row["images"], row["unsure"]) == (11, 200, 1000, 1)
    assert row["low"] == session.test().low and not row["clear"]
    assert artifact.file(f"logs/{session.path.name}").read_bytes() == session.data
    header = session.header
    assert set(artifact.parents) == {header.candidate.checkpoint, header.against.checkpoint}
    judge(project, GATED, CONTROL, ["won"] * 4)
    more = read_judgements(project, SLUG)
    assert more is not None and more.inputs.fingerprint != artifact.fingerprint


@pytest.mark.parametrize(
    "change", [{"classes": ["circle", "quadrangle"]}, {"templates": ["a picture of a {}"]}, None]
)
def test_judgements_of_other_names_or_lost_models_do_not_count(
    project: Project, change: dict[str, list[str]] | None
) -> None:
    judge(project, GATED, "base", ["won"] * 9)
    if change is None:
        checkpoint = project.store.current("customized_checkpoint", f"{SLUG}/{GATED}")
        shutil.rmtree(checkpoint.path.parent)
    else:
        edit_domain(project, SLUG, **change)
    assert read_judgements(project, SLUG) is None


def test_a_comparison_is_stale_after_the_next_judgement(project: Project) -> None:
    def compared() -> pd.DataFrame:
        table = pd.read_parquet(compare(project, SLUG).file("table.parquet"))
        return table.set_index("method")

    unavailable(project, CONTROL)
    path = judge(project, GATED, "base", ["won"] * 30 + ["lost"] * 4)
    status = {"base": STATUS, GATED: STATUS, **dict.fromkeys((CONTROL, LOCKED), "not judged")}
    assert compared()["status"].to_dict() == status
    judge(project, GATED, CONTROL, ["won"] * 6 + ["lost"] * 5)
    with pytest.raises(StaleArtifact, match="judgements"):
        comparison_is_current(project, SLUG)
    table, found = compared(), Session.read(path).test()
    artifact, row = comparison_is_current(project, SLUG), table.loc[GATED]
    assert (row["judged_delta"], row["judged_delta_low"]) == pytest.approx((found.gain, found.low))
    assert row["judged"] == 45 and row["judged_gain_low"] < 0 < row["judged_gain_high"]
    assert pd.isna(row["top1"]) and table.loc["base", ["judged_delta", "judged"]].isna().all()
    assert table["status"].to_dict() == {**status, CONTROL: STATUS}
    page = artifact.file("dashboard.html").read_text()
    assert str(Session.read(path)) in page.replace("&#43;", "+") and "0 of 0" not in page
    assert f"Judged without labels: {GATED} over base" in page
    assert "judged over base" in artifact.file("table.md").read_text()
    logged = {row.name for row in difference_rows(artifact)[GATED]}
    assert logged >= {"judged_delta", "judged_gain_low", "judged"}


def test_nothing_is_clear_before_the_exact_test_agrees(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = judge(project, GATED, "base", ["won"] * 8, disagreements=9, images=50)
    session = Session.read(path)
    assert session.is_clear
    monkeypatch.setattr(sessions, "sign_test", lambda _: 0.5)
    assert not session.is_clear
    with open_judge(path, "a tester", 1) as log:
        say(log, 8, 0)
        assert log.session.is_clear  # nothing is left to judge


def verdict(project: Project) -> Verdict:
    return Verdict.read(decide(project, SLUG))


def test_a_judged_lead_beyond_the_noise_makes_a_champion(project: Project) -> None:
    assert verdict(project).decision == "nothing"
    judge(project, GATED, "base", ["won"] * 40 + ["lost"] * 8 + ["neither"] * 6)
    with pytest.raises(StaleArtifact, match="judgements"):
        promotion_is_current(project, SLUG)
    artifact = decide(project, SLUG)
    found = Verdict.read(artifact)
    assert (found.decision, found.champion.method, found.by) == ("promoted", GATED, "rule")
    assert found.test and found.test.judged == 54 and 0 < found.test.low < found.test.gain
    assert "judged without labels" in found.reason
    assert decide(project, SLUG).fingerprint == artifact.fingerprint
    assert promotion_is_current(project, SLUG).fingerprint == artifact.fingerprint
    assert chosen_checkpoint(project, SLUG, "champion")[0].key == f"{SLUG}/{GATED}"
    status, _, images, *_ = candidates(artifact)[GATED]
    assert (status, images) == ("promoted", "1,000")
    # The model and its judgements outlive pruning while it has the title.
    judge(project, LOCKED, GATED, ["won"] * 3)
    assert verdict(project).champion.is_same(found.champion)
    project.store.prune()
    project.store.open("customized_checkpoint", f"{SLUG}/{GATED}", found.champion.checkpoint)
    assert Verdict.read(roll_back(project, SLUG)).champion.method == "base"
    judge(project, LOCKED, "base", ["lost"] * 3)
    assert verdict(project).champion.method == "base"


EVEN = ["won", "lost"] * 5


@pytest.mark.parametrize(
    ("sessions", "decision", "reason"),
    [
        ({(GATED, "base"): ["won"] * 7}, "challenger", ""),
        ({(GATED, "base"): ["won"] * 8}, "promoted", ""),
        ({(GATED, "base"): ["lost"] * 20}, "kept", ""),
        ({(GATED, "base"): ["unsure"] * 30}, "kept", ""),
        # Two tries share the confidence.
        ({(GATED, "base"): ["won"] * 8, (LOCKED, "base"): EVEN}, "challenger", ""),
        ({(GATED, "base"): ["won"] * 20, (GATED, CONTROL): EVEN}, "challenger", "its control"),
        ({(GATED, "base"): ["won"] * 20, (GATED, CONTROL): ["won"] * 11}, "promoted", ""),
        ({(LOCKED, GATED): ["won"] * 30}, "nothing", "no present candidate"),
    ],
)
def test_the_bound_decides_and_not_the_estimate(
    project: Project, sessions: dict[tuple[str, str], list[str]], decision: str, reason: str
) -> None:
    for models, answers in sessions.items():
        judge(project, *models, answers, disagreements=2000, images=3000)
    found = verdict(project)
    assert found.decision == decision and reason in found.reason


def test_of_two_that_pass_the_better_is_promoted(project: Project) -> None:
    judge(project, GATED, "base", ["won"] * 30)
    judge(project, LOCKED, "base", ["won"] * 20)
    rows = candidates(decide(project, SLUG))
    assert [rows[method][0] for method in (GATED, LOCKED)] == ["promoted", "passed"]


def test_measured_labels_win_over_judgements(project: Project) -> None:
    judge(project, GATED, "base", ["won"] * 40)
    assert verdict(project).decision == "promoted"
    labelled = {"name": "x", "kind": "folder", "path": str(project.path.parent)}
    edit_domain(project, SLUG, evaluation=labelled)
    stand_in(project, "evaluation_set", SLUG)
    result(project, SLUG, "base", outcomes(140))
    result(project, SLUG, GATED, outcomes(100))
    found = verdict(project)
    assert found.test is None or not found.test.judged
    assert "judged" not in found.reason


def test_a_judged_model_that_is_fresh_again_is_decided_on_again(project: Project) -> None:
    judge(project, GATED, "base", ["won"] * 40)
    settings = project.path.read_text()
    stale = change_pipeline(project, customization={"defaults": {"steps": 9}})
    held = verdict(stale)
    assert (held.decision, held.champion.method) == ("nothing", "base") and GATED in held.reason
    assert promotion_is_current(stale, SLUG)
    with pytest.raises(StaleArtifact, match="rematerialize"):
        promote(stale, SLUG, GATED, "because")
    without_base = change_pipeline(project, encoder={"resize_mode": "squash"})
    assert verdict(without_base).decision == "incomparable"
    project.path.write_text(settings)
    again = Project.load(project.path)
    with pytest.raises(StaleArtifact, match=GATED):
        promotion_is_current(again, SLUG)
    assert verdict(again).champion.method == GATED
    assert promotion_is_current(again, SLUG)


def test_a_person_promotes_a_judged_model(project: Project) -> None:
    judge(project, GATED, "base", ["won"] * 3)
    assert verdict(project).champion.method == "base"
    with pytest.raises(InputError, match="judge"):
        promote(project, SLUG, LOCKED, "because")
    promoted = promote(project, SLUG, GATED, "because")
    assert Verdict.read(promoted).champion.method == GATED
    assert decide(project, SLUG).fingerprint == promoted.fingerprint
    project.store.prune()
    assert chosen_checkpoint(project, SLUG, "champion")[0].key == f"{SLUG}/{GATED}"
