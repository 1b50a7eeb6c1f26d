"""Automation: what is asked for and only once, the schedule.

The last tests run the real daemon and take minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import PIPELINE, REPOSITORY
from mlflow import MlflowClient
from support.launch import dagster_home, repository
from support.scenes import Scene
from support.services import running
from support.upkeep import METHODS, build, build_all, change_pipeline, edit_domain

from react_pipeline.assets import reporting
from react_pipeline.assets.partitions import DOMAINS, to_partition_key
from react_pipeline.extensions.automation import assets as upkeep
from react_pipeline.extensions.automation.survey import State, survey
from react_pipeline.extensions.ui.servers import SIGNALS, listen_to_signals
from react_pipeline.failures import await_checks, open_checks, read_failure
from react_pipeline.project.project import CONFIG_VARIABLE, Project

Make = Callable[..., Project]
Asked = set[tuple[str, str | None]]


@pytest.fixture
def kept_up(make_project: Make) -> Project:
    return make_project(methods=list(METHODS))


@pytest.fixture
def scene(kept_up: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with Scene.of(kept_up, monkeypatch) as scene:
        yield scene


def test_assets_unknown_to_dagster_are_asked_for_after_reload(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = tmp_path / "scenes"
    project = make_project(
        methods=["base"], automation={"extensions": ["dense"]}, dense={"root": str(scenes)}
    )
    build(project, "base_checkpoint")
    dense = ("dense_results", to_partition_key("shapes/base"))
    with Scene.of(project, monkeypatch) as scene:
        scene.ask()  # registers the domains
        scenes.mkdir()
        assert dense not in asked(scene) and "reload the code location" in scene.log
        assert dense in asked(Scene(project, scene.instance))


def asked(scene: Scene) -> Asked:
    return {
        (key.path[-1], request.partition_key)
        for request in scene.ask()
        for key in request.asset_selection or ()
    }


def test_broken_domains_and_pipelines_do_not_fail_the_sensor(
    kept_up: Project, scene: Scene
) -> None:
    assert ("evaluation_set", "shapes") in asked(scene)
    (kept_up.config.domains / "shapes.yaml").write_text("classes: [cat, cat]\n")
    assert ("evaluation_set", "colours") in asked(scene) and "shapes: left out" in scene.log
    text = kept_up.path.read_text()
    kept_up.path.write_text("store: 3\n")
    assert asked(scene) == set()
    kept_up.path.write_text(text)
    assert ("evaluation_set", "colours") in asked(scene)


def test_what_another_project_runs_is_not_awaited(scene: Scene) -> None:
    other = dg.AssetKey(["birds", "corpus"])

    @dg.asset(key=other)
    def made() -> None: ...

    made_job = dg.Definitions([made]).resolve_implicit_global_asset_job_def()
    started = dg.DagsterRunStatus.STARTED
    scene.instance.create_run_for_job(made_job, status=started, asset_selection=frozenset([other]))
    assert ("corpus", None) in asked(scene)
    scene.start("corpus")
    assert ("corpus", None) not in asked(scene)


def test_a_tick_leaves_the_rest_to_the_next(
    kept_up: Project, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_REQUESTS", 2)
    for number in range(4):
        path = kept_up.config.domains / f"shapes-{number}.yaml"
        shutil.copy(kept_up.config.domains / "shapes.yaml", path)
    places: list[tuple[str, str | None]] = []
    while some := scene.ask():
        assert len(some) <= 2
        for request in some:
            scene.queue(request)
            places.append((str(request.asset_selection), request.partition_key))
    assert len(places) == len(set(places)) == 2 + 6
    monkeypatch.setattr(upkeep, "MAX_UNFINISHED", 3)
    edit_domain(kept_up, "shapes", classes=["circle", "square"])
    assert scene.ask() == [], "enough runs wait"


def test_notes_that_were_damaged_are_ignored(
    kept_up: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("", "{", "[]", '{"inputs": 1}', '{"kind": "odd", "inputs": "", "text": ""}'):
        kept_up.store.write_note("failures/corpus--all", text)
        assert read_failure(kept_up, ("corpus", "all")) is None
        assert ("corpus", "all") in [task.place for task in survey(kept_up, []).tasks]
    build_all(kept_up, ["shapes"], until="faiss_index")
    kept_up.store.write_note("checks/faiss_index--all", "{")
    found = [task for task in survey(kept_up, ["shapes"]).tasks if task.stage == "faiss_index"]
    assert "was not evaluated" in found[0].reason


@pytest.mark.parametrize("had", [True, False])
def test_a_process_that_ends_before_its_checks_passes_none(
    kept_up: Project, scene: Scene, monkeypatch: pytest.MonkeyPatch, had: bool
) -> None:
    if had:
        scene.play()
        edit_domain(kept_up, "shapes", templates=["a sketch of a {}"])
        scene.images = ("c", "d")
    ends = {"retrieved_set": 0}
    monkeypatch.setattr(reporting, "await_checks", lambda _, made, *__: 1 / ends.get(made.stage, 1))
    made = scene.play()
    assert "FAILED retrieved_set shapes" in made
    assert not [place for place in made if "customized_checkpoint shapes" in place]
    monkeypatch.undo()
    assert survey(kept_up, ["shapes"]).states["retrieved_set", "shapes"] is State.FRESH


def test_a_check_that_is_gone_with_its_extension_blocks_nothing(kept_up: Project) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    made = kept_up.store.current("retrieved_set", "shapes")
    await_checks(kept_up, made, ["classes_have_pairs"])
    assert open_checks(kept_up, made)
    await_checks(kept_up, made, [])
    assert open_checks(kept_up, made) == {}


def test_request_says_what_it_is_for_and_what_goes_first(
    kept_up: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    with Scene.of(kept_up, monkeypatch) as scene:
        tags = {str(one.asset_selection[0].path[-1]): one.tags for one in scene.ask()}
    training = tags["customized_checkpoint"]
    assert training["domain"] == "shapes" and training["method"] == "gated-image"
    assert "has not been materialized" in training["reason"]
    # Dagster's pages show no tag that begins with `.dagster/`, and those of `dagster/` only when
    # they are asked for.
    assert {name for name in training if "dagster/" not in name} == {"domain", "method", "reason"}
    first = tags["evaluation_set"]
    assert int(first["dagster/priority"]) > int(training["dagster/priority"])


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_asks_for_runs_unless_it_is_enabled(make_project: Make, enabled: bool) -> None:
    loaded = repository(make_project(automation={"enabled": enabled}))
    running = {
        one.name: one.default_status.value == "RUNNING"
        for one in (*loaded.sensor_defs, *loaded.schedule_defs)
    }
    assert running == {
        "domain_files": True,
        "upkeep": enabled,
        "recustomize": enabled,
        "retention_schedule": False,
    }


def test_the_schedule_looks_outside_and_needs_a_cron_line(
    make_project: Make,
) -> None:
    project = make_project(automation={"schedule": "30 2 * * *", "timezone": "Europe/Berlin"})
    (project.config.domains / "plain.yaml").write_text("classes: [cat]\n")
    loaded = repository(project)
    schedule = loaded.get_schedule_def("recustomize")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 2 * * *", "Europe/Berlin")
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(DOMAINS, ["shapes", "plain", "gone"])
        now = datetime(2026, 1, 1, tzinfo=UTC)
        context = dg.build_schedule_context(instance, now, repository_def=loaded)
        requests = schedule.evaluate_tick(context).run_requests
    assert [
        (key.path[-1], request.partition_key)
        for request in requests
        for key in request.asset_selection
    ] == [("corpus", None), ("base_checkpoint", None), ("evaluation_set", "shapes")]
    unscheduled = repository(change_pipeline(project, automation={"schedule": None}))
    assert "recustomize" not in [schedule.name for schedule in unscheduled.schedule_defs]


def about_to_train(make_project: Make, store: Path, **sections: Any) -> Project:
    """A project whose next step is the training of its one domain."""
    automation = {"enabled": True, "interval_seconds": 2}
    project = make_project(automation=automation, **sections)
    shutil.copytree(store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    return project


@pytest.mark.slow
def test_two_daemons_over_one_store_make_everything_once(  # FAULTS 3, 29
    make_project: Make, _retrieved_store: Path, tmp_path: Path
) -> None:
    project = about_to_train(make_project, _retrieved_store, methods=["base", "gated-image"])
    made = ("comparison", "shapes")
    with (
        dagster_home(tmp_path / "one") as one,
        dagster_home(tmp_path / "two") as two,
        running_daemon(project, one) as log,
        running_daemon(project, two) as other,
    ):
        # Two processes must not open a fresh Dagster home at once, so nobody looks into it before
        # it has worked.
        wait_for(lambda: made[1] in project.store.keys(made[0]), 1_800, "comparison", log)
        for home, written in ((one, log), (two, other)):
            wait_for(lambda home=home: made in _succeeded(home), 900, "comparison of each", written)
    client = MlflowClient(project.config.tracking_uri)
    found = client.search_runs([entry.experiment_id for entry in client.search_experiments()])
    artifacts = [tags["fingerprint"] for run in found if "fingerprint" in (tags := run.data.tags)]
    groups = [tags["react.parent"] for run in found if "react.parent" in (tags := run.data.tags)]
    assert len(artifacts) + len(groups) == len(found)
    assert sorted(artifacts) == sorted(set(artifacts)) and len(groups) == len(set(groups))
    assert "shapes/gated-image customized_checkpoint" in {run.info.run_name for run in found}
    for stage, key in (
        ("retrieved_set", "shapes"),
        ("customized_checkpoint", "shapes/gated-image"),
        made,
    ):
        assert len(list((project.store.root / stage / key).glob("*/manifest.json"))) == 1
    assert len(client.search_model_versions("name = 'react-shapes'")) == 1


@pytest.mark.slow
def test_cancelled_training_frees_the_device_for_the_next(
    make_project: Make, _retrieved_store: Path, tmp_path: Path
) -> None:
    steps = {**PIPELINE["customization"]["defaults"], "steps": 3_000, "checkpoint_every": 500}
    project = about_to_train(
        make_project,
        _retrieved_store,
        methods=["gated-image"],
        customization={"defaults": steps},
    )
    with (
        dagster_home(tmp_path / "home") as home,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):

        def places_taken() -> int:
            return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count

        hurry(home)
        assert places_taken() == 0  # the home is whole before a second process opens it
        with running_daemon(project, home) as log:
            wait_for(lambda: training_under_way(instance, "gated-image"), 900, "training", log)
            cancelled = training_under_way(instance, "gated-image")
            assert cancelled is not None and places_taken() == 1
            assert instance.run_launcher.terminate(cancelled.run_id)
            ended = dg.DagsterRunStatus.CANCELED
            wait_for(
                lambda: instance.get_run_by_id(cancelled.run_id).status == ended,
                900,
                "cancelled run",
                log,
            )
            wait_for(lambda: places_taken() == 0, 600, "free place", log)
            change_pipeline(project, methods=["gated-image", "locked-text"])
            wait_for(
                lambda: training_under_way(instance, "locked-text"), 900, "another training", log
            )
            assert training_under_way(instance, "gated-image") is None, (
                "a person's cancelling is respected"
            )
    assert project.store.keys("customized_checkpoint") == []


def _succeeded(home: Path) -> Asked:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        return {
            (key.path[-1], run.tags.get("dagster/partition"))
            for run in runs
            for key in run.asset_selection or ()
        }


@contextmanager
def running_daemon(project: Project, home: Path) -> Iterator[Path]:
    """`dagster-daemon run` with the code location of this repository, until the context ends; gives
    its log.

    `home` is a `DAGSTER_HOME` with its dagster.yaml (`support.launch.dagster_home`). A run that is
    still going on is ended too.
    """
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        CONFIG_VARIABLE: str(project.path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = home / "daemon.log"
    daemon = "from dagster._daemon.cli import main; main()"
    command = [sys.executable, "-c", daemon, "run", "-w", "workspace.yaml"]
    with running(
        command, log, SIGNALS, env=environment, cwd=REPOSITORY, preexec_fn=listen_to_signals
    ):
        yield log


def hurry(home: Path) -> None:
    """Let the monitoring of runs look every 3 seconds, and free the place of an ended one
    after 5.
    """
    path = home / "dagster.yaml"
    text = path.read_text()
    for field, usual, seconds in (
        ("poll_interval_seconds", 30, 3),
        ("free_slots_after_run_end_seconds", 60, 5),
    ):
        assert f"{field}: {usual}" in text
        text = text.replace(f"{field}: {usual}", f"{field}: {seconds}")
    path.write_text(text)


def training_under_way(instance: dg.DagsterInstance, method: str) -> dg.DagsterRun | None:
    """The run that trains a method, once it has reported of a step; None before."""
    wanted = dg.RunsFilter(tags={"method": method}, statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(wanted):
        trains = any(key.path[-1] == "customized_checkpoint" for key in run.asset_selection or ())
        if trains and any(": loss " in one.message for one in instance.all_logs(run.run_id)):
            return run
    return None


def wait_for(happened: Callable[[], object], seconds: float, what: str, log: Path) -> None:
    """Return as soon as something happened.

    Raises:
        AssertionError: With the end of the daemon's log, if it did not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return
        time.sleep(0.5)
    raise AssertionError(
        f"{what}: not after {seconds:.0f} seconds\n{log.read_text(errors='replace')[-6000:]}"
    )
