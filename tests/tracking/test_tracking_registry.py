"""The registry shows what the store decided: aliases, reasons, and nothing of a person's silently
undone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.promotion import copy_measured, measured_folder, outcomes, result

from react_pipeline.project.project import Project
from react_pipeline.promotion.case import standing
from react_pipeline.promotion.decision import decide, promote, roll_back
from react_pipeline.tracking import queue
from react_pipeline.tracking import registry as registering
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.runs import Runs

GATED, LOCKED = "gated-image", "locked-text"
NAME = "react-shapes"
DOWN = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Path:
    return measured_folder(
        tmp_path_factory.mktemp("measured"), tiny_checkpoint, drawings
    ).path.parent


@pytest.fixture(autouse=True)
def _no_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_unreachable_until", {})
    monkeypatch.setattr(queue, "COOLDOWN_SECONDS", 0.0)


@pytest.fixture
def project(make_project: Callable[..., Project], measured: Path, tracking: Tracking) -> Project:
    return copy_measured(measured, make_project(methods=["base", "gated-image"]))


@pytest.fixture
def registry(project: Project, tracking: Tracking) -> Tracking:
    return Tracking(Runs(tracking.uri, "tiny"))


@pytest.fixture
def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.uri, tracking.uri)


def aliases(client: MlflowClient) -> dict[str, str]:
    """Method of the version that each alias names."""
    model = client.get_registered_model(NAME)
    return {
        alias: client.get_model_version(NAME, number).tags["method"]
        for alias, number in model.aliases.items()
    }


def ahead(project: Project) -> None:
    """`locked-text` is measured: far ahead of everybody."""
    result(project, "shapes", LOCKED, outcomes(185))


def test_a_champion_has_its_alias_and_says_why(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    artifact = decide(project, "shapes")
    reported = registry.apply(project, artifact)
    assert (len(reported.runs), reported.waits, reported.notes) == (1, 0, [])
    assert aliases(client) == {"champion": GATED}
    (version,) = registry.versions("shapes")
    described = client.get_model_version(NAME, version.number)
    assert "+20.0 points" in described.description and "interval" in described.description
    assert version.tags["verdict"] == "promoted"
    assert version.tags["gain"] == "+0.2000"
    assert version.tags["fingerprint"] == version.checkpoint


def test_challenger_alias_and_replaced_champion_are_recorded(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    registry.apply(project, decide(project, "shapes"))
    result(project, "shapes", LOCKED, outcomes(143))
    registry.apply(project, decide(project, "shapes"))
    assert aliases(client) == {"champion": GATED, "challenger": LOCKED}
    ahead(project)
    registry.apply(project, decide(project, "shapes"))
    assert aliases(client) == {"champion": LOCKED}
    tags = {version.method: version.tags for version in registry.versions("shapes")}
    assert tags[GATED]["verdict"] == "former champion"
    assert "locked-text" in tags[GATED]["reason"]
    registry.apply(project, roll_back(project, "shapes", "too slow"))
    assert aliases(client)["champion"] == GATED
    registry.apply(project, roll_back(project, "shapes"))
    assert "champion" not in aliases(client)


def test_telling_twice_changes_nothing(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    artifact = decide(project, "shapes")
    registry.apply(project, artifact)
    before = [dict(version) for version in client.search_model_versions(f"name = '{NAME}'")]
    registry.apply(project, artifact)
    after = [dict(version) for version in client.search_model_versions(f"name = '{NAME}'")]
    unstamped = [
        {name: value for name, value in row.items() if "timestamp" not in name} for row in before
    ]
    assert [
        {name: value for name, value in row.items() if "timestamp" not in name} for row in after
    ] == unstamped
    assert len(after) == 1


def test_verdicts_missed_by_mlflow_are_applied_in_order(  # FAULTS 29
    project: Project, registry: Tracking, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    down = Tracking(Runs(DOWN, "tiny"))
    assert down.apply(project, decide(project, "shapes")).waits == 1
    ahead(project)
    assert down.apply(project, decide(project, "shapes")).waits == 2
    assert "unavailable" in caplog.text
    assert standing(project, "shapes")[0].champion.method == LOCKED
    reported = registry.apply(project, patient=True)
    assert (len(reported.runs), reported.waits) == (2, 0)
    assert aliases(client) == {"champion": LOCKED}
    described = {
        version.tags["method"]: version
        for version in client.search_model_versions(f"name = '{NAME}'")
    }
    assert described[GATED].tags["verdict"] == "former champion"
    assert "becomes champion" in described[GATED].description
    assert "becomes champion" in described[LOCKED].description
    assert registry.apply(project).runs == {}


def test_a_late_verdict_does_not_restore_an_old_champion(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    early = decide(project, "shapes")
    ahead(project)
    registry.apply(project, decide(project, "shapes"))
    registry.apply(project, early)
    assert aliases(client)["champion"] == LOCKED


def test_after_a_roll_back_both_versions_name_the_champion(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    first, second = {}, {}
    for method, reason in ((GATED, "it is first"), (LOCKED, "it is second")):
        if method == LOCKED:
            result(project, "shapes", LOCKED, outcomes(143))
        registry.apply(project, promote(project, "shapes", method, reason))
    back = roll_back(project, "shapes", "no better")
    for _ in range(2):  # a roll-back that is reported twice is written once
        registry.apply(project, back)
        found = {
            entry.tags["method"]: entry
            for entry in client.search_model_versions(f"name = '{NAME}'")
        }
        first, second = found[GATED], found[LOCKED]
        assert first.tags["verdict"] == "champion again"
        assert first.description.startswith("champion again on ")
        assert second.tags["verdict"] == "former champion"
        assert second.description.startswith("former champion on ")
        assert first.description.endswith(": no better") and second.tags["reason"].endswith(
            ": no better"
        )
        assert second.tags["decided"] == first.tags["decided"]


def test_an_old_verdict_takes_no_title_from_a_later_champion(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    registry.apply(project, promote(project, "shapes", GATED, "it is first"))
    result(project, "shapes", LOCKED, outcomes(143))
    older = promote(project, "shapes", LOCKED, "it is second")
    registry.apply(project, older)
    first = next(entry for entry in registry.versions("shapes") if entry.method == GATED)
    later = "9999-01-01T00:00:00+00:00"
    for tag, value in (("verdict", "champion again"), ("decided", later)):
        client.set_model_version_tag(NAME, first.number, tag, value)
    registry.apply(project, older)
    again = next(entry for entry in registry.versions("shapes") if entry.method == GATED)
    assert (again.tags["verdict"], again.tags["decided"]) == ("champion again", later)


def test_a_version_whose_log_still_waits_is_registered_first(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    checkpoint = project.store.current("customized_checkpoint", f"shapes/{GATED}")
    assert Tracking(Runs(DOWN, "tiny")).log_artifact(project, checkpoint, "dagster-1") is None
    registry.apply(project, decide(project, "shapes"), patient=True)
    assert aliases(client) == {"champion": GATED}
    assert len(registry.versions("shapes")) == 1
    assert Tracking(Runs(registry.uri, "tiny")).count_pending(project) == 0


def test_alias_moved_by_hand_is_respected_and_then_taken_over(
    project: Project, registry: Tracking, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model("react-colours")
    monkeypatch.setattr(registering, "PAGE_MODELS", 1)
    registry.apply(project, decide(project, "shapes"))
    result(project, "shapes", LOCKED, outcomes(143))
    registry.apply(project, decide(project, "shapes"))
    assert registry.hand_edit(project, "shapes") is None and registry.edited(project) == set()
    chosen = next(version for version in registry.versions("shapes") if version.method == LOCKED)
    client.set_registered_model_alias(NAME, "champion", chosen.number)
    # A verdict that knew nothing of it leaves the alias alone and says so.
    result(project, "shapes", "full", outcomes(190))
    reported = registry.apply(project, decide(project, "shapes"))
    assert (
        "a person had moved" in reported.notes[0]
        and f"version {chosen.number}" in reported.notes[0]
    )
    assert aliases(client)["champion"] == LOCKED
    # The next decision takes the person's choice over.
    edit = registry.hand_edit(project, "shapes")
    assert edit is not None and edit.checkpoint == chosen.checkpoint
    assert registry.edited(project) == {"shapes"}
    reported = registry.apply(project, decide(project, "shapes", edit))
    assert reported.notes == []
    verdict, _ = standing(project, "shapes")
    assert (verdict.by, verdict.champion.method) == ("registry", LOCKED)
    assert aliases(client)["champion"] == LOCKED
    assert registry.hand_edit(project, "shapes") is None


def test_no_edit_is_seen_while_a_verdict_waits(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    registry.apply(project, decide(project, "shapes"))
    client.delete_registered_model_alias(NAME, "champion")
    result(project, "shapes", LOCKED, outcomes(190))
    assert registry.edited(project) == {"shapes"}
    Tracking(Runs(DOWN, "tiny")).apply(project, decide(project, "shapes"))
    assert registry.hand_edit(project, "shapes") is None and registry.edited(project) == set()


def test_an_alias_deleted_by_hand_is_taken_over_as_a_roll_back(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    registry.apply(project, decide(project, "shapes"))
    client.delete_registered_model_alias(NAME, "champion")
    edit = registry.hand_edit(project, "shapes")
    assert edit is not None and edit.version is None
    registry.apply(project, decide(project, "shapes", edit))
    assert standing(project, "shapes")[0].champion.method == "base"
    assert aliases(client) == {}
    assert registry.hand_edit(project, "shapes") is None


def test_a_command_overrules_what_was_done_by_hand_and_says_so(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    registry.apply(project, decide(project, "shapes"))
    client.delete_registered_model_alias(NAME, "champion")
    reported = registry.apply(project, promote(project, "shapes", GATED, "it is the one"))
    assert aliases(client) == {"champion": GATED}
    assert "no version" in reported.notes[0]


def test_a_version_deleted_by_hand_is_said_and_never_made_again(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    artifact = decide(project, "shapes")
    registry.apply(project, artifact)
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_model_version(NAME, registry.versions("shapes")[0].number)
    reported = registry.apply(project, artifact)
    assert "a person deleted it" in reported.notes[0]
    assert (reported.waits, registry.versions("shapes")) == (0, [])


def test_a_domain_with_the_base_as_champion_has_no_model(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    result(project, "colours", "base", outcomes(100))
    reported = registry.apply(project, decide(project, "colours"))
    assert (len(reported.runs), reported.notes) == (1, [])
    assert client.search_registered_models("name = 'react-colours'") == []
    assert registry.versions("colours") == [] and registry.hand_edit(project, "colours") is None


def test_one_domain_that_cannot_be_applied_holds_up_no_other(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    pending = project.store.root / queue.PENDING
    pending.mkdir(parents=True)
    (pending / "promotion--colours--0123456789abcdef.json").write_text("not JSON")
    reported = registry.apply(project, decide(project, "shapes"))
    assert (len(reported.runs), reported.waits) == (1, 1)
    assert aliases(client) == {"champion": GATED}
