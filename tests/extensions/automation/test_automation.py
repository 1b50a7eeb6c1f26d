"""Automation: what is asked for and only once, the schedule.

The last tests run the real daemon and take minutes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import PIPELINE
from mlflow import MlflowClient
from support.automation import (
    Asked,
    Upkeep,
    hurry,
    repository,
    running_daemon,
    training_under_way,
    wait_for,
)
from support.launch import dagster_home
from support.upkeep import METHODS, build, build_all, change_pipeline, edit_domain

from react_pipeline.assets.partitions import DOMAINS, partition_of
from react_pipeline.assets.reporting import INTERRUPTED
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extensions.automation.assets.last_runs import INPUTS_TAG, WILL_RETRY_TAG
from react_pipeline.extensions.automation.assets.upkeep_sensor import request_of
from react_pipeline.extensions.automation.survey import Task, survey
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.settings import METHODS as ALL_METHODS
from react_pipeline.store.errors import InputError

Make = Callable[..., Project]


@pytest.fixture
def kept_up(make_project: Make) -> Project:
    return make_project(methods=list(METHODS))


def test_the_same_work_is_asked_for_once_even_without_result(kept_up: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        first = {("corpus", None), ("base_checkpoint", None), ("evaluation_set", "shapes")}
        assert upkeep.tick() == first
        for stage, partition in first:
            upkeep.run(stage, partition)
        assert upkeep.tick() == set()
        assert "evaluation_set shapes: was asked for with these inputs" in upkeep.reported
        edit_domain(kept_up, "shapes", classes=["circle", "square"])
        assert upkeep.tick() == {("evaluation_set", "shapes")}


def test_what_was_built_and_outdated_again_is_asked_for_again(kept_up: Project) -> None:
    evaluation = ("evaluation_set", "shapes")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        original = (kept_up.config.domains / "shapes.yaml").read_text()
        for _ in range(2):  # from one version to another and back
            assert evaluation in upkeep.tick()
            upkeep.run(*evaluation)
            build(kept_up, *evaluation)
            edit_domain(kept_up, "shapes", classes=["circle", "square"])
            assert evaluation in upkeep.tick()
            upkeep.run(*evaluation)
            build(kept_up, *evaluation)
            (kept_up.config.domains / "shapes.yaml").write_text(original)


def test_work_that_a_person_started_is_left_alone(kept_up: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        job = upkeep.repository.get_implicit_global_asset_job_def().get_subset(
            asset_selection={dg.AssetKey("base_checkpoint")}
        )
        started = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert ("base_checkpoint", None) not in upkeep.tick()
        instance.report_run_failed(started)
        assert ("base_checkpoint", None) in upkeep.tick()


def test_tick_where_nothing_is_due_reads_no_run(
    kept_up: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, [], until="faiss_index")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance)
        for name in ("get_run_records", "get_run_by_id", "all_logs"):
            monkeypatch.setattr(instance, name, None)
        assert upkeep.tick() == set() and upkeep.reported == "everything is up to date"


def test_files_that_look_different_are_asked_for_once(
    make_project: Make, drawings: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(drawings / "shards", tmp_path / "own"))
    project = make_project(corpus={"shards": [str(shards / "*.tar")]}, methods=list(METHODS))
    build_all(project, [], until="faiss_index")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(project, instance)
        assert upkeep.tick() == set()
        os.utime(next(shards.glob("*.tar")), (1, 1))
        assert (
            upkeep.tick() == {("corpus", None)} and "its source files look different" in upkeep.log
        )
        upkeep.plan(dg.DagsterRunStatus.STARTED)
        assert upkeep.tick() == set()


def test_assets_unknown_to_dagster_are_asked_for_after_reload(
    make_project: Make, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    project = make_project(
        methods=["base"], automation={"extensions": ["dense"]}, dense={"root": str(scenes)}
    )
    build(project, "base_checkpoint")
    with dg.DagsterInstance.ephemeral() as instance:
        loaded_before = Upkeep(project, instance, "shapes")
        scenes.mkdir()
        dense = ("dense_results", partition_of("shapes/base"))
        assert dense not in loaded_before.tick() and "reload the code location" in loaded_before.log
        assert dense in Upkeep(project, instance).tick()


def test_chain_is_asked_for_link_by_link_up_to_the_comparison(kept_up: Project) -> None:
    links = []
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        asked = upkeep.tick()
        while ("comparison", "shapes") not in asked:
            assert asked
            links += sorted(stage for stage, _ in asked)
            for stage, partition in asked:
                build(kept_up, stage, (partition or "all").replace("|", "/"))
            asked = upkeep.tick()
    assert links == [
        *(
            "base_checkpoint",
            "corpus",
            "evaluation_set",
            "corpus_embeddings",
            "domain_results",
            "faiss_index",
        ),
        *("retrieved_set", "customized_checkpoint", "domain_results"),
    ]
    assert asked == {("comparison", "shapes"), ("promotion", "shapes")}


def test_failed_training_keeps_no_comparison_of_others_waiting(kept_up: Project) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        training = ("customized_checkpoint", partition_of("shapes/gated-image"))
        assert upkeep.tick() == {training}
        upkeep.run(*training, InputError("no such layer"))
        assert upkeep.tick() == {("comparison", "shapes"), ("promotion", "shapes")}


def test_check_that_blocks_stops_the_chain_of_its_domain(kept_up: Project) -> None:
    build_all(kept_up, ["shapes", "colours"], until="retrieved_set")
    with dg.DagsterInstance.ephemeral() as instance:
        for slug, passed in (("shapes", False), ("colours", True)):
            report(instance, slug, passed=passed)
        upkeep = Upkeep(kept_up, instance, "shapes", "colours")
        asked = upkeep.tick()
        assert ("customized_checkpoint", partition_of("colours/gated-image")) in asked
        assert ("customized_checkpoint", partition_of("shapes/gated-image")) not in asked
        assert (
            "shapes/gated-image: not asked for: classes_have_pairs of retrieved_set has failed"
            in upkeep.log
        )


def report(instance: dg.DagsterInstance, slug: str, *, passed: bool) -> None:
    check = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("retrieved_set"),
        check_name="classes_have_pairs",
        passed=passed,
        blocking=True,
        partition=slug,
    )
    instance.report_runless_asset_event(check)


@pytest.mark.parametrize(("reason", "again"), [(INTERRUPTED, True), ("something else", False)])
def test_run_that_ended_with_the_servers_is_asked_for_again(
    kept_up: Project, reason: str, again: bool
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        upkeep.tick()
        upkeep.plan(dg.DagsterRunStatus.STARTED)
        upkeep.run("corpus", None, dg.Failure(reason, allow_retries=False))
        assert upkeep.tick() == ({("corpus", None)} if again else set())


def test_run_that_dagster_starts_again_is_waited_for(kept_up: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes")
        upkeep.tick()
        upkeep.plan(dg.DagsterRunStatus.FAILURE, **{WILL_RETRY_TAG: "true"})
        assert upkeep.tick() == set() and "corpus all: was asked for" not in upkeep.log
        for run in instance.get_runs():
            instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})  # as after the last try
        assert (
            upkeep.tick() == set()
            and "corpus all: was asked for" in upkeep.log
            and "try 2 of 6" in upkeep.log
        )


def test_broken_domains_and_pipelines_do_not_fail_the_sensor(kept_up: Project) -> None:
    (kept_up.config.domains / "broken.yaml").write_text("classes: [cat, cat]\n")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "broken", "shapes")
        assert ("evaluation_set", "shapes") in upkeep.tick()
        upkeep.plan(dg.DagsterRunStatus.STARTED)
        text = kept_up.path.read_text()
        kept_up.path.write_text("store: 3\n")
        assert upkeep.tick() == set()
        kept_up.path.write_text(text)
        assert upkeep.tick() == set(), "what was asked for is under way"


def test_request_says_what_it_is_for_and_what_goes_first(kept_up: Project) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    with dg.DagsterInstance.ephemeral() as instance:
        upkeep = Upkeep(kept_up, instance, "shapes", "colours")
        upkeep.tick()
    tags = upkeep.tags["customized_checkpoint", partition_of("shapes/gated-image")]
    assert tags["domain"] == "shapes" and tags["method"] == "gated-image"
    assert "has not been materialized" in tags["reason"]
    # Dagster's pages show no tag that begins with `.dagster/`, and those of `dagster/` only when
    # they are asked for.
    assert {name for name in tags if "dagster/" not in name} == {"domain", "method", "reason"}
    first = upkeep.tags["evaluation_set", "colours"]
    assert int(first["dagster/priority"]) > int(tags["dagster/priority"])


def test_small_trainings_go_first_and_the_benchmark_last() -> None:
    tasks = [
        Task("customized_checkpoint", "a/full", "", images=10**3),
        Task("customized_checkpoint", "a/full", "", images=10**8),
        Task("benchmark_results", "a/full", ""),
    ]
    priorities = [
        int(request_of(task, "", 1, ALL_METHODS, ProjectResource()).tags["dagster/priority"])
        for task in tasks
    ]
    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == 3


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_asks_for_runs_unless_it_is_enabled(make_project: Make, enabled: bool) -> None:
    loaded = repository(make_project(automation={"enabled": enabled}))
    running = {
        sensor.name: sensor.default_status.value == "RUNNING" for sensor in loaded.sensor_defs
    }
    running |= {
        schedule.name: schedule.default_status.value == "RUNNING"
        for schedule in loaded.schedule_defs
    }
    assert running == {
        "domain_files": True,
        "freshness": True,
        "upkeep": enabled,
        "recustomize": enabled,
        "alerts": True,  # of an extension; it starts no run
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
        context = dg.build_schedule_context(
            instance,
            datetime(2026, 1, 1, tzinfo=UTC),
            repository_def=loaded,
        )
        requests = schedule.evaluate_tick(context).run_requests
    assert [
        ({key.path[-1] for key in request.asset_selection}, request.partition_key)
        for request in requests
    ] == [
        ({"corpus", "base_checkpoint"}, None),
        ({"evaluation_set"}, "shapes"),
    ]
    unscheduled = repository(change_pipeline(project, automation={"schedule": None}))
    assert "recustomize" not in [schedule.name for schedule in unscheduled.schedule_defs]


@pytest.mark.parametrize(
    ("schedule", "days"),
    [
        ("0 3 * * *", 2),
        ("0 3 * * 1-5", 6),
        ("*/30 * * * *", 1 / 24),
        ("0 0 29 2 *", 2 * 8 * 365.25),
    ],
)
def test_listed_assets_fail_when_the_schedule_misses_a_tick(
    make_project: Make, schedule: str, days: float
) -> None:
    project = make_project(automation={"schedule": schedule, "enabled": True})
    policies = policies_of(project)
    assert set(policies) == {"corpus", "base_checkpoint"}
    window = policies["corpus"].fail_window.to_timedelta()
    assert abs(window / timedelta(days=days) - 1) < 0.01
    for setting in ({"enabled": False}, {"schedule": None}):
        automation = {"schedule": schedule, "enabled": True, **setting}
        assert policies_of(change_pipeline(project, automation=automation)) == {}


def policies_of(project: Project) -> dict[str, Any]:
    graph = repository(project).asset_graph
    nodes = {key.path[-1]: graph.get(key) for key in graph.get_all_asset_keys()}
    return {name: node.freshness_policy for name, node in nodes.items() if node.freshness_policy}


@pytest.mark.slow
def test_daemon_takes_a_dropped_file_to_a_trained_checkpoint(
    make_project: Make, tmp_path: Path
) -> None:
    project = make_project(
        methods=["base", "linear-head"], automation={"enabled": True, "interval_seconds": 2}
    )
    waiting = tmp_path / "shapes.yaml"
    (project.config.domains / "shapes.yaml").rename(waiting)
    (project.config.domains / "colours.yaml").unlink()
    with dagster_home(tmp_path / "home") as home, running_daemon(project, home) as log:
        waiting.rename(project.config.domains / "shapes.yaml")
        trained = ("customized_checkpoint", "shapes/linear-head")
        wait_for(
            lambda: trained[1] in project.store.keys(trained[0]), 400, "trained checkpoint", log
        )
        wait_for(lambda: "shapes" in project.store.keys("comparison"), 200, "comparison", log)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = instance.get_runs()
            made = [_inputs_of(run) for run in runs if run.status == dg.DagsterRunStatus.SUCCESS]
            assert len(made) == len(set(made)), "no work was done twice"
            assert json.dumps([run.tags for run in runs]).count("linear-head") >= 2
    assert not [
        task
        for task in survey(project, ["shapes"]).tasks
        if task.stage in ("corpus", "retrieved_set")
    ]


@pytest.mark.slow
def test_two_daemons_over_one_store_make_everything_once(  # FAULTS 3, 29
    make_project: Make, _indexed_store: Path, tmp_path: Path
) -> None:
    project = make_project(
        methods=["base", "gated-image"], automation={"enabled": True, "interval_seconds": 2}
    )
    shutil.copytree(_indexed_store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    made = ("comparison", "shapes")
    with (
        dagster_home(tmp_path / "one") as one,
        dagster_home(tmp_path / "two") as two,
        running_daemon(project, one) as log,
        running_daemon(project, two) as other,
    ):
        # Two processes must not open a fresh Dagster home at once, so nobody looks into it before
        # it has worked.
        wait_for(lambda: made[1] in project.store.keys(made[0]), 500, "comparison", log)
        for home, written in ((one, log), (two, other)):
            wait_for(lambda home=home: made in _succeeded(home), 200, "comparison of each", written)
    client = MlflowClient(project.config.tracking_uri)
    found = client.search_runs([entry.experiment_id for entry in client.search_experiments()])
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)) and "shapes/gated-image customized_checkpoint" in names
    for stage, key in (
        ("retrieved_set", "shapes"),
        ("customized_checkpoint", "shapes/gated-image"),
        made,
    ):
        assert len(list((project.store.root / stage / key).glob("*/manifest.json"))) == 1
    assert len(client.search_model_versions("name = 'react-shapes'")) == 1


@pytest.mark.slow
def test_cancelled_training_frees_the_device_for_the_next(
    make_project: Make, _indexed_store: Path, tmp_path: Path
) -> None:
    steps = {**PIPELINE["customization"]["defaults"], "steps": 3_000, "checkpoint_every": 500}
    automation = {"enabled": True, "interval_seconds": 2}
    project = make_project(
        methods=["gated-image"], automation=automation, customization={"defaults": steps}
    )
    shutil.copytree(_indexed_store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    with (
        dagster_home(tmp_path / "home") as home,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):

        def places_taken() -> int:
            return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count

        hurry(home)
        assert places_taken() == 0  # the home is whole before a second process opens it
        with running_daemon(project, home) as log:
            wait_for(lambda: training_under_way(instance, "gated-image"), 150, "training", log)
            cancelled = training_under_way(instance, "gated-image")
            assert cancelled is not None and places_taken() == 1
            assert instance.run_launcher.terminate(cancelled.run_id)
            ended = dg.DagsterRunStatus.CANCELED
            wait_for(
                lambda: instance.get_run_by_id(cancelled.run_id).status == ended,
                60,
                "cancelled run",
                log,
            )
            wait_for(lambda: places_taken() == 0, 30, "free place", log)
            change_pipeline(project, methods=["gated-image", "locked-text"])
            wait_for(
                lambda: training_under_way(instance, "locked-text"), 100, "another training", log
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


def _inputs_of(run: dg.DagsterRun) -> str:
    return json.dumps(
        sorted((name, value) for name, value in run.tags.items() if name.startswith(INPUTS_TAG))
    )
