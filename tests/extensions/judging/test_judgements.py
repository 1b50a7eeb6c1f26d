"""Judgements: the log, what follows from it, the artifact, and the comparison that shows it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support.judging import SLUG, header_of, judge, unavailable, without_labels
from support.promotion import checkpoint

import react_pipeline.evaluation.comparison as comparison
from react_pipeline.evaluation.comparison import compare, comparison_is_current
from react_pipeline.extensions.judging import log as judging_log
from react_pipeline.extensions.judging.judgements import STATUS, judgements_of
from react_pipeline.extensions.judging.log import (
    Session,
    Side,
    create_log,
    describe,
    open_log,
)
from react_pipeline.extensions.judging.page import state_of
from react_pipeline.project.project import Project
from react_pipeline.store.errors import CorruptArtifact, InputError, StaleArtifact, StoreWriteError
from react_pipeline.tracking.results import difference_rows

GATED, CONTROL = "gated-image", "gated-image-control"
SIDES = Side(method=GATED, checkpoint="one"), Side(method="base", checkpoint="other")


@pytest.fixture
def project(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(
        comparison, "_retrieved_sets", lambda *_: {}
    )  # the stand-in has no pairs to show
    return without_labels(make_project(), [GATED, CONTROL])


@pytest.fixture
def log(project: Project, tmp_path: Path) -> Path:
    create_log(
        path := tmp_path / "log.jsonl", header_of(project, *SIDES, disagreements=5, images=50)
    )
    return path


def test_an_estimate_over_all_orders_is_the_full_difference(
    project: Project, tmp_path: Path
) -> None:
    truth = (0, 0, 0, 1, "neither")  # of 5 disagreements among 50 pictures: +2 of 50
    estimates = []
    for number, order in enumerate(permutations(truth)):
        path = tmp_path / f"{number}.jsonl"
        create_log(path, header_of(project, *SIDES, disagreements=5, images=50))
        with open_log(path, "a tester") as log:
            for picture, answer in enumerate(order[:2]):
                assert log.answer(picture, answer)  # type: ignore[arg-type]
            estimates.append(log.session.difference().estimate)
    assert np.mean(estimates) == pytest.approx(2 / 50)


def test_a_full_judgement_is_exact_and_unsure_counts_both_ways(log: Path) -> None:
    with open_log(log, "a tester") as opened:
        for picture, answer in enumerate((0, 0, "neither", 1, "unsure")):
            opened.answer(picture, answer)  # type: ignore[arg-type]
        found = opened.session.difference()
        assert (found.low, found.high, found.clear) == (0, 2 / 50, True)
        opened.answer(4, None)
        assert not opened.session.difference().clear
        opened.answer(4, 0)
        found = opened.session.difference()
        assert (found.estimate, found.low, found.high) == pytest.approx((2 / 50, 2 / 50, 2 / 50))
    counts = Session.read(log).counts
    assert [counts[name] for name in ("judged", "won", "lost", "neither", "unsure")] == [
        5,
        3,
        1,
        1,
        0,
    ]
    assert counts["judges"] == "a tester" and counts["first"] <= counts["last"] < "3"


def test_only_next_picture_is_answered_and_only_last_taken_back(log: Path) -> None:
    with open_log(log, "a tester") as opened:
        tries = [
            (1, 0),
            (0, 0),
            (0, 0),
            (1, None),
            (0, None),
            (0, None),
            (-1, None),
            (0, 1),
            (5, 0),
        ]
        assert [opened.answer(*one) for one in tries] == [
            False,
            True,
            False,
            False,
            True,
            False,
            False,
            True,
            False,
        ]
        assert [entry.answer for entry in opened.session.entries] == [1]
        assert Session.read(log) == opened.session


def test_a_torn_line_was_never_given_and_is_written_over(log: Path) -> None:
    with open_log(log, "a tester") as opened:
        opened.answer(0, 0)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"picture": 1, "ans')
    assert len(Session.read(log).entries) == 1
    with open_log(log, "another") as opened:
        opened.answer(1, 1)
    assert log.read_bytes().startswith(whole) and len(Session.read(log).entries) == 2


def test_a_second_process_cannot_open_the_log(log: Path) -> None:
    with (
        open_log(log, "a tester"),
        pytest.raises(InputError, match="another"),
        open_log(log, "another"),
    ):
        pass


def test_a_full_disk_loses_no_answer_and_leaves_no_part_of_one(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(log, "a tester") as opened:
        opened.answer(0, 0)
        before, write = log.read_bytes(), os.write

        def fail(descriptor: int, data: bytes) -> int:
            write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(StoreWriteError, match="space"):
            opened.answer(1, 1)
        assert log.read_bytes() == before
        monkeypatch.undo()
        assert opened.answer(1, 1) and Session.read(log) == opened.session


def test_a_damaged_log_is_named(project: Project) -> None:
    path = judge(project, GATED, "base", ["won"] * 3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(CorruptArtifact, match=path.name):
        judgements_of(project, SLUG)


def test_the_artifact_follows_the_logs_and_holds_them(project: Project) -> None:
    assert judgements_of(project, SLUG) is None
    judge(project, GATED, "base", ["won"] * 9 + ["lost", "unsure"])
    found = judgements_of(project, SLUG)
    assert found is not None
    artifact = found.publish(project)
    assert found.publish(project).reused
    row = pd.read_parquet(artifact.file("table.parquet")).iloc[0]
    assert (row["judged"], row["disagreements"], row["images"], row["unsure"]) == (11, 200, 1000, 1)
    assert (
        Session.read(artifact.file(f"logs/{found.sessions[0].path.name}")).counts
        == found.sessions[0].counts
    )
    assert set(artifact.parents) == {row["candidate_checkpoint"], row["against_checkpoint"]}
    judge(project, GATED, CONTROL, ["won"] * 4)
    more = judgements_of(project, SLUG)
    assert more is not None and more.inputs.fingerprint != artifact.fingerprint


@pytest.mark.parametrize("change", ["class", "template", "model"])
def test_judgements_of_other_names_or_lost_models_do_not_count(
    project: Project, change: str
) -> None:
    judge(project, GATED, "base", ["won"] * 9)
    path = project.config.domains / f"{SLUG}.yaml"
    domain = yaml.safe_load(path.read_text())
    if change == "class":
        domain["classes"][1] = "quadrangle"
    elif change == "template":
        domain["templates"] = ["a picture of a {}"]
    else:
        checkpoint = project.store.current("customized_checkpoint", f"{SLUG}/{GATED}")
        shutil.rmtree(checkpoint.path.parent)
    path.write_text(yaml.safe_dump(domain))
    assert judgements_of(project, SLUG) is None


def test_a_comparison_is_stale_after_the_next_judgement(
    project: Project,
) -> None:
    unavailable(project, "base", GATED, CONTROL)
    before = compare(project, SLUG)
    path = judge(project, GATED, "base", ["won"] * 30 + ["lost"] * 4)
    table = pd.read_parquet(compare(project, SLUG).file("table.parquet")).set_index("method")
    assert table["status"].to_dict() == {"base": STATUS, GATED: STATUS, CONTROL: "not judged"}
    judge(project, GATED, CONTROL, ["won"] * 6 + ["lost"] * 5)
    with pytest.raises(StaleArtifact, match="judgements"):
        comparison_is_current(project, SLUG)
    artifact = compare(project, SLUG)
    assert (
        comparison_is_current(project, SLUG).fingerprint
        == artifact.fingerprint
        != before.fingerprint
    )
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    row, found = table.loc[GATED], Session.read(path).difference()
    assert (row["judged_delta"], row["judged_delta_low"]) == pytest.approx(
        (found.estimate, found.low)
    )
    assert row["judged"] == 45 and row["judged_gain_low"] < 0 < row["judged_gain_high"]
    assert pd.isna(row["top1"]) and table.loc["base", ["judged_delta", "judged"]].isna().all()
    page = artifact.file("dashboard.html").read_text()
    assert "Judged, not measured" in page and describe(Session.read(path)) in page.replace(
        "&#43;", "+"
    )
    assert f"Without labels, {GATED} is judged" in page and 'id="judgements"' in page
    assert "judged over base" in page and "0 of 0" not in page
    assert set(table["status"]) == {STATUS}
    assert "judged over base" in artifact.file("table.md").read_text()
    assert {row.name for row in difference_rows(artifact)[GATED]} >= {
        "judged_delta",
        "judged_gain_low",
        "judged",
    }
    with open_log(path, "a tester") as log:
        log.answer(34, 1)
    with pytest.raises(StaleArtifact, match="judgements"):
        comparison_is_current(project, SLUG)


def test_retrained_model_has_no_judgement_in_the_comparison(project: Project) -> None:
    judge(project, GATED, "base", ["won"] * 9)
    checkpoint(project, SLUG, GATED, seed=1)
    unavailable(project, "base", "locked-text")
    table = pd.read_parquet(compare(project, SLUG).file("table.parquet"))
    assert table["judged"].isna().all()


def test_header_is_json_that_a_person_can_read(log: Path) -> None:
    header = json.loads(log.read_text().splitlines()[0])
    assert (
        header["candidate"] == {"method": GATED, "checkpoint": "one"}
        and len(header["pictures"]) == 5
    )


def test_the_forecast_of_clicks_is_when_the_same_answers_go_on(
    project: Project, tmp_path: Path
) -> None:
    create_log(
        path := tmp_path / "log.jsonl", header_of(project, *SIDES, disagreements=300, images=400)
    )
    so_far = [0, 0, 1, "neither", 0, 0, 1, 0, "unsure", 1, 0, 0, 1, 0, 0, "neither", 1, 0, 0, 0]
    with open_log(path, "a tester") as log:
        for number, answer in enumerate(so_far):
            assert (log.session.clicks_left is None) == (number < 10)
            assert log.answer(number, answer)  # type: ignore[arg-type]
        left = log.session.clicks_left
        assert left is not None and 20 < left < 280
        for number in range(20, 20 + left):
            assert not log.session.difference().clear
            if number < 30:  # whose name was clicked does not show
                assert log.session.clicks_left == left - (number - 20)
            assert log.answer(number, so_far[number % 20])  # type: ignore[arg-type]
        assert log.session.difference().clear


def test_without_a_difference_no_verdict_is_forecast(project: Project, tmp_path: Path) -> None:
    create_log(
        path := tmp_path / "log.jsonl", header_of(project, *SIDES, disagreements=60, images=400)
    )
    with open_log(path, "a tester") as log:
        for number in range(10):
            log.answer(number, number % 2)
        assert log.session.clicks_left == 50
        assert "before all 60" in state_of(log)["left"]


def test_nothing_is_clear_before_the_exact_test_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = np.ones(8, np.int64)
    assert judging_log._is_clear(answers, answers, 10_000)
    monkeypatch.setattr(judging_log, "sign_test", lambda _: 0.5)
    assert not judging_log._is_clear(answers, answers, 10_000)
    assert judging_log._is_clear(answers, answers, 8)  # nothing is left to judge
