"""The registry shows what the store decided: aliases and reasons, written one way."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from support.promotion import measure

from react_pipeline.project import Project
from react_pipeline.promotion import decide, promote, roll_back, standing
from react_pipeline.store import Artifact
from react_pipeline.tracking import Tracking
from react_pipeline.tracking.models import list_versions

GATED, LOCKED, FULL = "gated-image", "locked-text", "full"
NAME = "react-shapes"
DOWN = "http://127.0.0.1:9"


@pytest.fixture
def project(measured_project: Project, tracking: Tracking) -> Project:
    return measured_project


@pytest.fixture
def registry(project: Project, tracking: Tracking) -> Tracking:
    return Tracking(tracking.uri, "tiny")


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


def described(registry: Tracking) -> dict[str, dict[str, str]]:
    """Tags of the version of each method."""
    versions = list_versions(registry.connect(), "shapes")
    return {version.tags["method"]: version.tags for version in versions}


def decided(project: Project, registry: Tracking) -> str | None:
    """Decide, and log it; returns the run."""
    return registry.log_artifact(project, decide(project, "shapes"))


def test_a_champion_has_its_alias_and_says_why(
    project: Project, registry: Tracking, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert decided(project, registry)
    assert "could not be logged" not in caplog.text
    assert aliases(client) == {"champion": GATED}
    (version,) = list_versions(client, "shapes")
    assert "+20.0 points" in version.description and "interval" in version.description
    assert version.tags["verdict"] == "promoted"
    assert version.tags["gain"] == "+0.2000"


def test_challenger_alias_and_replaced_champion_are_recorded(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    decided(project, registry)
    measure(project, LOCKED, 143)
    decided(project, registry)
    assert aliases(client) == {"champion": GATED, "challenger": LOCKED}
    measure(project, LOCKED, 185)  # far ahead of everybody
    decided(project, registry)
    assert aliases(client) == {"champion": LOCKED}
    tags = described(registry)
    assert tags[GATED]["verdict"] == "former champion"
    assert "locked-text" in tags[GATED]["reason"]
    registry.log_artifact(project, roll_back(project, "shapes", "too slow"))
    assert aliases(client)["champion"] == GATED
    found = described(registry)
    for method, title in ((GATED, "champion again"), (LOCKED, "former champion")):
        assert found[method]["verdict"] == title and found[method]["reason"].endswith(": too slow")
    registry.log_artifact(project, roll_back(project, "shapes"))
    assert "champion" not in aliases(client)


def test_verdicts_missed_by_mlflow_are_applied_in_order(  # FAULTS 29
    project: Project,
    registry: Tracking,
    client: MlflowClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    down = Tracking(DOWN, "tiny")
    verdicts = [decide(project, "shapes")]
    assert down.log_artifact(project, verdicts[0]) is None
    measure(project, LOCKED, 185)  # far ahead of everybody
    verdicts.append(decide(project, "shapes"))
    assert down.log_artifact(project, verdicts[1]) is None
    assert "unavailable" in caplog.text
    assert standing(project, "shapes")[0].champion.method == LOCKED
    measure(project, FULL, 187)
    verdicts.append(decide(project, "shapes"))
    assert down.log_artifact(project, verdicts[2]) is None
    logged = registry.sync(project)
    made = project.store.versions("promotion", "shapes")
    assert logged is not None and len(made) == 3
    assert {artifact.fingerprint for artifact in verdicts} == logged.intersection(made)
    assert aliases(client) == {"champion": LOCKED, "challenger": FULL}
    titles = {GATED: "former champion", LOCKED: "promoted", FULL: "challenger"}
    assert {method: tags["verdict"] for method, tags in described(registry).items()} == titles
    registry.log_artifact(project, verdicts[0])  # again, and late
    assert aliases(client) == {"champion": LOCKED, "challenger": FULL}
    assert described(registry)[GATED]["verdict"] == "former champion"


def test_an_alias_moved_by_hand_is_set_by_the_next_log(
    project: Project, registry: Tracking, client: MlflowClient
) -> None:
    artifact = decide(project, "shapes")
    registry.log_artifact(project, artifact)
    client.delete_registered_model_alias(NAME, "champion")
    registry.log_artifact(project, artifact)
    assert aliases(client) == {"champion": GATED}
    measure(project, LOCKED, 143)
    decided(project, registry)
    challenger = client.get_registered_model(NAME).aliases["challenger"]
    client.set_registered_model_alias(NAME, "champion", challenger)
    decided(project, registry)
    assert standing(project, "shapes")[0].champion.method == GATED
    assert aliases(client) == {"champion": GATED, "challenger": LOCKED}
    champion = client.get_model_version_by_alias(NAME, "champion")
    client.delete_model_version(NAME, champion.version)
    registry.log_artifact(project, artifact)
    assert aliases(client) == {"challenger": LOCKED}


def test_aliases_show_what_was_decided_while_they_were_written(
    project: Project, registry: Tracking, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(project, LOCKED, 143)
    registry.sync(project)
    write = MlflowClient.set_registered_model_tag
    later: list[Artifact] = []

    def decided_meanwhile(*arguments: str) -> None:
        if not later:  # as another host does
            later.append(promote(project, "shapes", GATED, "it is better"))
        write(*arguments)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", decided_meanwhile)
    first = decide(project, "shapes")
    assert first.counts["champion"] == LOCKED
    registry.log_artifact(project, first)
    assert aliases(client)["champion"] == GATED
