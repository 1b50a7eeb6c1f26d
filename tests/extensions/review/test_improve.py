"""Improving a domain: what is tried is what would be retrieved, and noise is not proposed."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from react_pipeline.extensions.review import improve as improving
from react_pipeline.extensions.review.extension import Review
from react_pipeline.extensions.review.improve import (
    Change,
    Comparison,
    Improvement,
    Pairs,
    Trial,
    Try,
    controls_of,
    diff_of,
    improve,
    propose,
    write_changes,
)
from react_pipeline.project import Project, current_decisions
from react_pipeline.retrieval import retrieve_pairs

SLUG = "shapes"


@pytest.fixture
def trial(retrieved_project: Project) -> Trial:
    return Trial(retrieved_project, SLUG)


def test_what_is_tried_is_what_is_retrieved_then(retrieved_project: Project, trial: Trial) -> None:
    assert trial.compare([], half=0).net == 0
    rows = trial.before.rows[trial.before.class_ids == 0]
    changes = [Change(0, rejected=(int(rows[0]),)), Change(1, "wheel")]
    tried = trial.retrieve(changes)
    write_changes(retrieved_project, SLUG, changes)
    artifact = retrieve_pairs(retrieved_project, SLUG)
    published = artifact.counts["pairs"]
    assert rows[0] not in tried.rows
    assert set(tried.rows) != set(trial.before.rows)
    assert published == len(tried.rows)
    again = Trial(retrieved_project, SLUG).before
    assert again.rows.tolist() == tried.rows.tolist()
    assert again.class_ids.tolist() == tried.class_ids.tolist()


def test_where_no_change_is_chosen_nothing_is_claimed(trial: Trial) -> None:
    assert improve(trial, 0) == Improvement([], None, None)


def test_a_change_is_shown_before_it_is_written(retrieved_project: Project, trial: Trial) -> None:
    path = retrieved_project.config.domains / f"{SLUG}.yaml"
    before = path.read_text()
    changes = [Change(1, "wheel"), Change(0, rejected=(int(trial.before.rows[0]),))]
    assert "wheel" in diff_of(retrieved_project, SLUG, changes)
    assert path.read_text() == before
    write_changes(retrieved_project, SLUG, changes)
    assert retrieved_project.domain(SLUG).classes[1].synonyms[-1] == "wheel"
    decisions = current_decisions(retrieved_project, SLUG).values()
    assert [one.verdict for one in decisions] == ["reject"]


def test_a_row_has_the_same_half_in_every_set(trial: Trial) -> None:
    rows = trial.before.rows
    fewer = Pairs(rows[1::2], trial.before.class_ids[1::2])
    assert fewer.halves.tolist() == trial.before.halves[1::2].tolist()
    assert set(trial.before.halves) == {0, 1}


def test_controls_have_the_form_of_their_changes(trial: Trial) -> None:
    changes = [
        Change(0, "wheel"),
        Change(0, rejected=(int(trial.before.rows[0]),)),
        Change(1, "box"),
    ]
    controls = controls_of(trial, changes, changes)
    assert [one.class_id for one in controls] == [0, 0, 1]
    assert [controls[0].synonym, controls[2].synonym] == ["box", "wheel"]
    assert len(controls[1].rejected) == 1
    names = set(trial.domain.class_names)
    assert not {one.synonym for one in propose(trial)} & names


def test_no_synonym_is_its_own_control(trial: Trial) -> None:
    one, same = Change(0, "wheel"), Change(1, "wheel")
    (control,) = controls_of(trial, [one], [one, Change(1, "box")])
    assert control.synonym == "box"
    for proposed in ([one], [one, same]):
        controls = controls_of(trial, proposed, proposed)
        assert all(control.synonym not in ("", "wheel") for control in controls)


@pytest.mark.parametrize(
    ("own", "of_controls", "is_proposed"),
    [
        (Comparison(100, 12, 2), Comparison(100, 1, 1), True),
        (Comparison(100, 4, 1), Comparison(100, 1, 1), False),
        (Comparison(100, 12, 2), Comparison(100, 15, 1), False),
        (Comparison(100, 0, 0), Comparison(100, 0, 3), False),
    ],
)
def test_only_what_helps_beyond_noise_is_proposed(
    own: Comparison, of_controls: Comparison, is_proposed: bool
) -> None:
    good = Try(Change(0, "a"), Change(0, "b"), Comparison(50, 3, 1), Comparison(50, 1, 1))
    bad = Try(Change(1, "b"), Change(1, "a"), Comparison(50, 3, 1), Comparison(50, 3, 1))
    changes = Improvement([good, bad], own, of_controls).changes
    assert changes == ([good.change] if is_proposed else [])


def test_without_a_chosen_change_nothing_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(improving, "propose", lambda _: [Change(0, "a")])
    monkeypatch.setattr(improving, "controls_of", lambda *_: [Change(0, "b")])
    trial = Mock(compare=lambda *_, half: Comparison(100, 1, 1))
    improvement = improving.improve(trial, 1)
    assert len(improvement.tries) == 1 and improvement.own is None


def test_the_command_writes_nothing_unless_told(retrieved_project: Project) -> None:
    app = typer.Typer()
    Review().add_commands(app)
    before = (retrieved_project.config.domains / f"{SLUG}.yaml").read_bytes()
    command = ["improve", SLUG, "--tries", "2", "--config", str(retrieved_project.path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "held-out" in done.output
    assert (retrieved_project.config.domains / f"{SLUG}.yaml").read_bytes() == before
