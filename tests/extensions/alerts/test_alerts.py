"""Alerts: people hear of what failed for good, once, and not of what is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest
import yaml
from support.receiver import Receiver
from support.scenes import Scene
from support.upkeep import change_pipeline

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.project import Project
from react_pipeline.store import ConfigError, InputError, StoreWriteError

pytest.importorskip("apprise")

Make = Callable[..., Project]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("TEAM_ALERTS", receiver.address)
    monkeypatch.setenv("no_proxy", "*")
    yield receiver
    receiver.server.shutdown()


@pytest.fixture
def scene(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    project = make_project(alerts={"to": ["TEAM_ALERTS"]}, methods=["base", "gated-image"])
    (project.config.domains / "colours.yaml").unlink()
    with Scene.of(project, monkeypatch) as scene:
        scene.alert()  # what was before the first tick is not reported
        yield scene


def test_a_run_that_failed_for_good_is_reported_once(scene: Scene, receiver: Receiver) -> None:
    scene.faults["corpus", "all"] = InputError("https://ann:secret@host/x.tar: damaged")
    scene.play()
    for _ in range(2):
        scene.alert()
    (text,) = receiver.texts
    assert "corpus" in text and "x.tar: damaged" in text and "secret" not in text


def test_a_fault_that_is_retried_is_reported_with_the_last_try(
    scene: Scene, receiver: Receiver
) -> None:
    scene.faults["corpus", "all"] = StoreWriteError("the disk is full")
    for _ in range(6):
        assert receiver.texts == []
        scene.play()
        scene.alert()
        scene.wait(20)
    (text,) = receiver.texts
    assert "the disk is full" in text


def test_a_run_that_dagster_starts_again_is_not_reported(scene: Scene, receiver: Receiver) -> None:
    (corpus,) = [one for one in scene.ask() if one.asset_selection == [dg.AssetKey("corpus")]]
    scene.end(scene.queue(corpus, **{"dagster/will_retry": "true"}))
    scene.alert()
    assert receiver.texts == []
    scene.end(scene.start("corpus"))
    scene.alert()
    assert len(receiver.texts) == 1, "nobody starts again what a person started"


def test_a_check_that_blocks_is_reported(scene: Scene, receiver: Receiver) -> None:
    scene.images = ()
    scene.play()
    scene.alert()
    (text,) = receiver.texts
    assert "classes_have_pairs" in text


@pytest.mark.parametrize(
    ("prefix", "chosen", "reports"), [("birds", True, 0), ("", True, 1), ("", False, 1)]
)
def test_runs_of_this_project_alone_are_reported(
    scene: Scene, receiver: Receiver, prefix: str, chosen: bool, reports: int
) -> None:
    """Also one of a team's own job, which chooses no assets."""
    names = [prefix] if prefix else []
    resource = ProjectResource(str(scene.project.path), tuple(names))
    other = build_defs(project=resource).get_repository_def()
    job = other.get_implicit_global_asset_job_def()
    key = dg.AssetKey([*names, "corpus"])
    run = scene.instance.create_run_for_job(
        job.get_subset(asset_selection={key}),
        asset_selection=frozenset([key]) if chosen else None,
    )
    scene.end(run)
    scene.alert()
    assert len(receiver.texts) == reports


def test_a_refused_message_fails_the_tick_and_holds_no_other_up(
    scene: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_pipeline(scene.project, alerts={"to": ["NOBODY", "BROKEN", "TEAM_ALERTS"]})
    monkeypatch.delenv("NOBODY", raising=False)
    monkeypatch.setenv("BROKEN", "json://127.0.0.1:9/")
    scene.faults["corpus", "all"] = InputError("tars/x.tar: damaged")
    scene.play()
    text = scene.alert()
    assert "BROKEN did not accept the message: corpus all" in text and "NOBODY is not set" in text
    assert len(receiver.texts) == 1


def test_an_address_in_the_file_is_refused(make_project: Make) -> None:
    project = make_project()
    settings = yaml.safe_load(project.path.read_text())
    settings["alerts"] = {"to": ["https://hooks.example/T000/secret"]}
    project.path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="alerts"):
        Project.load(project.path)
