"""Promotion of a domain without labels: judgements decide, at the level of the number of
sessions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.judging import SLUG, judge, unavailable, without_labels
from support.promotion import candidates, outcomes, result, stand_in
from support.upkeep import change_pipeline, edit_domain

from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide, promote, promotion_is_current, roll_back
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.store.errors import InputError, StaleArtifact
from react_pipeline.use import chosen_checkpoint

MakeProject = Callable[..., Project]
GATED, CONTROL, LOCKED = "gated-image", "gated-image-control", "locked-text"


@pytest.fixture
def make(make_project: MakeProject) -> MakeProject:
    def build(**promotion: object) -> Project:
        project = without_labels(make_project(promotion=promotion), [GATED, CONTROL, LOCKED])
        unavailable(project, "base", GATED, LOCKED)
        return project

    return build


def verdict(project: Project) -> Verdict:
    return Verdict.read(decide(project, SLUG))


def test_a_judged_lead_beyond_the_noise_makes_a_champion(make: MakeProject) -> None:
    project = make()
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


@pytest.mark.parametrize(
    ("answers", "decision"),
    [
        (["won"] * 7, "challenger"),
        (["won"] * 8, "promoted"),
        (["lost"] * 20, "kept"),
        (["unsure"] * 30, "kept"),
    ],
)
def test_the_bound_decides_and_not_the_estimate(
    make: MakeProject, answers: list[str], decision: str
) -> None:
    project = make()
    judge(project, GATED, "base", answers, disagreements=2000, images=3000)
    assert verdict(project).decision == decision


def test_more_sessions_ask_for_more_and_one_is_promoted(make: MakeProject) -> None:
    project = make()
    judge(project, GATED, "base", ["won"] * 8)
    judge(project, LOCKED, "base", ["won", "lost"] * 5)
    found = verdict(project)
    assert (found.decision, found.candidates) == ("challenger", 2)
    assert found.test and found.test.confidence == pytest.approx(0.975)
    judge(project, GATED, "base", ["won"] * 30)
    judge(project, LOCKED, "base", ["won"] * 20)
    rows = candidates(decide(project, SLUG))
    assert [rows[method][0] for method in (GATED, LOCKED)] == ["promoted", "passed"]


def test_nothing_moves_without_a_judgement_over_todays_champion(make: MakeProject) -> None:
    project = make()
    with pytest.raises(InputError, match="no images"):
        promote(project, SLUG, GATED, "because")
    judge(project, LOCKED, GATED, ["won"] * 30)
    found = verdict(project)
    assert found.decision == "nothing" and "no present candidate" in found.reason
    judge(project, GATED, "base", ["won"] * 30)
    changed = change_pipeline(project, encoder={"resize_mode": "squash"})
    assert verdict(changed).decision == "incomparable"


def test_a_control_that_does_as_well_blocks(make: MakeProject) -> None:
    project = make()
    judge(project, GATED, "base", ["won"] * 20)
    judge(project, GATED, CONTROL, ["won", "lost"] * 5)
    found = verdict(project)
    assert found.decision == "challenger" and "over its control" in found.reason
    judge(project, GATED, CONTROL, ["won"] * 11)
    assert verdict(project).decision == "promoted"


def test_measured_labels_win_over_judgements(make: MakeProject) -> None:
    project = make()
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


def test_a_judged_model_that_is_fresh_again_is_decided_on_again(make: MakeProject) -> None:
    project = make()
    judge(project, GATED, "base", ["won"] * 40)
    settings = project.path.read_text()
    stale = change_pipeline(project, customization={"defaults": {"steps": 9}})
    held = verdict(stale)
    assert (held.decision, held.champion.method) == ("nothing", "base") and GATED in held.reason
    assert promotion_is_current(stale, SLUG)
    with pytest.raises(StaleArtifact, match="rematerialize"):
        promote(stale, SLUG, GATED, "because")
    project.path.write_text(settings)
    again = Project.load(project.path)
    with pytest.raises(StaleArtifact, match=GATED):
        promotion_is_current(again, SLUG)
    assert verdict(again).champion.method == GATED
    assert promotion_is_current(again, SLUG)


def test_a_person_promotes_a_judged_model(make: MakeProject) -> None:
    project = make()
    judge(project, GATED, "base", ["won"] * 3)
    assert verdict(project).champion.method == "base"
    with pytest.raises(InputError, match="judge"):
        promote(project, SLUG, LOCKED, "because")
    promoted = promote(project, SLUG, GATED, "because")
    assert Verdict.read(promoted).champion.method == GATED
    assert decide(project, SLUG).fingerprint == promoted.fingerprint
    project.store.prune()
    assert chosen_checkpoint(project, SLUG, "champion")[0].key == f"{SLUG}/{GATED}"
