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
    make: MakeProject, sessions: dict[tuple[str, str], list[str]], decision: str, reason: str
) -> None:
    project = make()
    for models, answers in sessions.items():
        judge(project, *models, answers, disagreements=2000, images=3000)
    found = verdict(project)
    assert found.decision == decision and reason in found.reason


def test_of_two_that_pass_the_better_is_promoted(make: MakeProject) -> None:
    project = make()
    judge(project, GATED, "base", ["won"] * 30)
    judge(project, LOCKED, "base", ["won"] * 20)
    rows = candidates(decide(project, SLUG))
    assert [rows[method][0] for method in (GATED, LOCKED)] == ["promoted", "passed"]


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
    without_base = change_pipeline(project, encoder={"resize_mode": "squash"})
    assert verdict(without_base).decision == "incomparable"
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
