"""Alerts: people hear of what is new, once, and not of what is retried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from support.automation import Upkeep
from support.promotion import measured_folder
from support.receiver import Receiver

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.reporting import readable_failures
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extensions.automation import TRY_TAG
from react_pipeline.project import Project
from react_pipeline.promotion import decide
from react_pipeline.store import (
    ConfigError,
    InputError,
    SourceUnavailable,
    Store,
    StoreWriteError,
)

pytest.importorskip("apprise")

Make = Callable[..., Project]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("TEAM_ALERTS", receiver.address)
    monkeypatch.setenv("no_proxy", "*")
    yield receiver
    receiver.released.set()
    receiver.server.shutdown()


def set_free_disk(monkeypatch: pytest.MonkeyPatch, percent: int) -> None:
    usage = SimpleNamespace(total=100, used=100 - percent, free=percent)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)


@pytest.fixture(autouse=True)
def _disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that runs the tests may be nearly full itself, which is an alert."""
    set_free_disk(monkeypatch, 50)


class Ticks:
    """Ticks of the sensor `alerts`, one after another."""

    def __init__(self, project: Project, instance: dg.DagsterInstance, *prefix: str) -> None:
        resource = ProjectResource(str(project.path), prefix)
        self.name = resource.name("alerts")
        self.instance = instance
        self.cursor: str | None = None
        self.repository = build_defs(project=resource).get_repository_def()

    def tick(self) -> str:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.repository,
            sensor_name=self.name,
        )
        result = self.repository.get_sensor_def(self.name).evaluate_tick(context)
        self.cursor = result.cursor
        return str(result.skip_message)


@pytest.fixture
def project(make_project: Make) -> Project:
    return make_project(alerts={"to": ["TEAM_ALERTS"]}, methods=["base", "gated-image"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def test_a_run_that_failed_for_good_is_reported_once(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    upkeep = Upkeep(project, instance, "shapes")
    ticks = Ticks(project, instance)
    ticks.tick()
    upkeep.tick()
    upkeep.run("corpus", None, InputError("tars/x.tar: damaged"))
    ticks.tick()
    ticks.tick()
    assert len(receiver.texts) == 1
    assert "tars/x.tar: damaged" in receiver.texts[0]
    assert "corpus" in receiver.texts[0]


def test_each_step_of_a_run_that_failed_for_good_is_reported(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    errors = {
        "domain_file": InputError("one"),
        "retrieved_set": StoreWriteError("two"),
        "control_set": InputError("three"),
        "few_shot_set": None,
    }

    def asset(stage: str) -> dg.AssetsDefinition:
        @dg.asset(name=stage, retry_policy=dg.RetryPolicy(max_retries=1))
        def made() -> None:
            with readable_failures():
                if error := errors[stage]:
                    raise error

        return made

    assets = list(map(asset, errors))
    ticks = Ticks(project, instance)
    ticks.tick()
    for tags in ({TRY_TAG: "1"}, {}):
        dg.materialize(assets, instance=instance, tags=tags, raise_on_error=False)
        ticks.tick()
    asked, by_hand = receiver.texts
    assert "domain_file: " in asked and "control_set: " in asked
    assert "retrieved_set" not in asked, "it is asked for again"
    assert "retrieved_set: " in by_hand and "few_shot_set" not in by_hand


def test_a_run_of_another_project_is_not_reported(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    upkeep = Upkeep(project, instance, "shapes")
    ticks = Ticks(project, instance, "birds")
    ticks.tick()
    upkeep.tick()
    upkeep.run("corpus", None, InputError("tars/x.tar: damaged"))
    ticks.tick()
    assert receiver.texts == []


def test_a_fault_that_is_retried_is_not_reported(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    upkeep = Upkeep(project, instance, "shapes")
    ticks = Ticks(project, instance)
    ticks.tick()
    upkeep.tick()
    upkeep.run("corpus", None, StoreWriteError("the disk is full"))
    ticks.tick()
    assert receiver.texts == []


def test_what_was_before_the_first_tick_is_not_reported(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    upkeep = Upkeep(project, instance, "shapes")
    upkeep.tick()
    upkeep.run("corpus", None, InputError("tars/x.tar: damaged"))
    ticks = Ticks(project, instance)
    ticks.tick()
    ticks.tick()
    assert receiver.texts == []


def test_a_new_champion_is_reported(
    tmp_path: Path,
    tiny_checkpoint: Path,
    drawings: Path,
    instance: dg.DagsterInstance,
    receiver: Receiver,
) -> None:
    project = measured_folder(tmp_path, tiny_checkpoint, drawings)
    settings = yaml.safe_load(project.path.read_text())
    settings["alerts"] = {"to": ["TEAM_ALERTS"]}
    project.path.write_text(yaml.safe_dump(settings))
    ticks = Ticks(Project.load(project.path), instance)
    ticks.tick()
    decide(project, "shapes")
    ticks.tick()
    ticks.tick()
    assert len(receiver.texts) == 1
    assert "shapes: gated-image is champion" in receiver.texts[0]


def test_a_disk_that_fills_up_is_reported_once(
    project: Project,
    instance: dg.DagsterInstance,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.config.store.mkdir(parents=True, exist_ok=True)
    ticks = Ticks(project, instance)
    ticks.tick()
    set_free_disk(monkeypatch, 1)
    ticks.tick()
    ticks.tick()
    assert len(receiver.texts) == 1
    assert "prune" in receiver.texts[0]


def test_a_domain_file_that_is_not_valid_is_reported_once(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    ticks = Ticks(project, instance)
    ticks.tick()
    (project.config.domains / "answers.yaml").write_text("classes: []")
    ticks.tick()
    ticks.tick()
    assert len(receiver.texts) == 1
    assert "answers.yaml" in receiver.texts[0]


@pytest.mark.parametrize("fault", ["pipeline.yaml", "store"])
def test_what_stops_everything_is_reported_once(
    project: Project,
    instance: dg.DagsterInstance,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    def away(*_: object) -> None:
        raise SourceUnavailable("s3://bucket: does not answer")

    ticks = Ticks(project, instance)
    ticks.tick()
    for _ in range(2):
        with monkeypatch.context() as patch:
            if fault == "store":
                patch.setattr(Store, "keys", away)
            else:
                settings = project.path.read_text()
                project.path.write_text("alerts: [")
            ticks.tick()
            ticks.tick()
        if fault != "store":
            project.path.write_text(settings)
        ticks.tick()
    assert len(receiver.texts) == 2, "once for each time"
    assert all(fault in text or "s3://bucket" in text for text in receiver.texts)


@pytest.mark.parametrize("status", [500, None])
def test_a_message_that_is_not_accepted_is_sent_again(
    project: Project, instance: dg.DagsterInstance, receiver: Receiver, status: int | None
) -> None:
    upkeep = Upkeep(project, instance, "shapes")
    ticks = Ticks(project, instance)
    ticks.tick()
    upkeep.tick()
    upkeep.run("corpus", None, InputError("tars/x.tar: damaged"))
    receiver.status = status
    assert "sent again" in ticks.tick()
    receiver.status = 200
    receiver.released.set()
    ticks.tick()
    ticks.tick()
    assert len(receiver.texts) == 1


def test_an_address_that_fails_holds_no_other_up(
    make_project: Make,
    instance: dg.DagsterInstance,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOBODY", raising=False)
    project = make_project(alerts={"to": ["NOBODY", "TEAM_ALERTS"]}, methods=["base"])
    upkeep = Upkeep(project, instance, "shapes")
    ticks = Ticks(project, instance)
    ticks.tick()
    upkeep.tick()
    upkeep.run("corpus", None, InputError("https://ann:secret@host/x.tar: damaged"))
    ticks.tick()
    assert len(receiver.texts) == 1
    assert "secret" not in receiver.texts[0]


def test_an_address_in_the_file_is_refused(make_project: Make) -> None:
    project = make_project()
    settings = yaml.safe_load(project.path.read_text())
    settings["alerts"] = {"to": ["https://hooks.example/T000/secret"]}
    project.path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="alerts"):
        Project.load(project.path)
