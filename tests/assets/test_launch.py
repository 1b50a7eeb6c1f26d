from __future__ import annotations

import base64
import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml
from conftest import write_project
from dagster._core.executor.in_process import InProcessExecutor
from mlflow import MlflowClient
from PIL import Image
from support.launch import dagster_home, metadata_of
from support.services import connect, create_databases, postgres_server, running
from support.tracking import runs_of

from react_pipeline.assets import runs
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import Launch, Summary, materialize, open_instance, plan
from react_pipeline.assets.partitions import partition_of
from react_pipeline.assets.resources import REPOSITORY, ProjectResource
from react_pipeline.assets.runs import PROCESS_TAG, process_tags, reap_abandoned
from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.failures import await_checks
from react_pipeline.project.project import Project
from react_pipeline.stage import ALL, Place
from react_pipeline.store.errors import InputError
from react_pipeline.tracking.log import Tracking

METHODS = ("base", "gated-image", "gated-image-control")


@dataclass
class Launched:
    project: Project
    first: Summary
    second: Summary
    lines: list[str]
    instance: dg.DagsterInstance


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    mlflow_database: Path,
) -> Iterator[Launched]:
    directory = tmp_path_factory.mktemp("launched")
    project = write_project(directory, tiny_checkpoint, drawings)
    lines: list[str] = []
    shutil.copy(mlflow_database, directory)
    with dagster_home(directory / "home"):
        first = materialize("*", ["shapes"], METHODS, project.path, lines.append)
        second = materialize("*", ["shapes"], METHODS, project.path)
        with open_instance(project) as instance:
            yield Launched(project, first, second, lines, instance)


def test_a_fresh_relative_home_is_used_with_settings_of_package(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "fresh/home")
    with open_instance(tiny_project) as instance:
        assert instance.root_directory == str(tmp_path / "fresh" / "home")
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1


def test_a_database_whose_making_was_stopped_is_completed(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with open_instance(tiny_project) as instance:
        index = Path(instance.event_log_storage.path_for_shard("index"))  # type: ignore[attr-defined]
    index.unlink()
    with closing(sqlite3.connect(index)) as database:  # the first table of many
        database.execute("CREATE TABLE pending_steps (id INTEGER PRIMARY KEY)")
    with open_instance(tiny_project) as instance:
        instance.add_dynamic_partitions("domains", ["birds"])
        assert instance.get_dynamic_partitions("domains") == ["birds"]


def test_whole_lineage_is_built_and_second_launch_starts_no_run(launched: Launched) -> None:
    assert not launched.first.failed and not launched.first.skipped
    assert (launched.first.built, launched.first.reused) == (15, 0)
    assert (launched.second.built, launched.second.reused) == (0, 15)
    assert launched.second.run_ids == []


def test_lineage_of_a_finished_project_is_green_throughout(launched: Launched) -> None:
    defs, instance = (
        build_defs(project=ProjectResource(config_path=str(launched.project.path))),
        launched.instance,
    )
    for node in defs.resolve_asset_graph().asset_nodes:
        keys = node.partitions_def.get_partition_keys(None, instance) if node.partitions_def else []
        if node.is_observable:
            seen = instance.fetch_observations(node.key, limit=100).records
            assert "shapes" in {record.partition_key for record in seen}
            continue
        made = instance.get_materialized_partitions(node.key)
        assert {key for key in keys if key.startswith("shapes")} <= made, node.key
        assert instance.get_latest_materialization_event(node.key) is not None, node.key


@pytest.mark.slow
@pytest.mark.operations
def test_a_fresh_dagster_home_gets_every_event_and_check(
    launched: Launched, tmp_path: Path
) -> None:
    with dagster_home(tmp_path / "home"):
        again = materialize("*", ["shapes"], METHODS, launched.project.path)
        assert (again.built, again.reused) == (0, 15)
        with open_instance(launched.project) as instance:
            events = [
                event
                for run_id in again.run_ids
                for event in instance.all_logs(
                    run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
                )
            ]
        assert len(events) == 15
        assert materialize("*", ["shapes"], METHODS, launched.project.path).run_ids == []


def test_runs_carry_only_tags_that_people_filter_by(launched: Launched) -> None:
    shown = [
        {name for name in run.tags if "dagster/" not in name}
        for run in launched.instance.get_runs()
    ]
    assert {"user", "domain", "method"} in shown
    assert set().union(*shown) == {"user", "domain", "method"}


def test_pictures_come_first_and_are_whole_in_the_event_log(launched: Launched) -> None:
    seen, with_rows = set(), set()
    for run_id in launched.first.run_ids:
        (entry,) = launched.instance.all_logs(
            run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        made = entry.asset_materialization
        assert made is not None
        shown = {name: str(value.value) for name, value in made.metadata.items()}
        images = [text for text in shown.values() if text.startswith("![")]
        assert images == [*shown.values()][: len(images)]
        assert [*shown][-2:] == ["dagster/uri", "fingerprint"]
        for text in images:
            data = text.rpartition("base64,")[2].rstrip(")")
            assert Image.open(io.BytesIO(base64.b64decode(data))).width > 0
            seen.add(made.asset_key.path[-1])
        if "dagster/column_schema" in shown:
            assert int(shown["dagster/row_count"]) > 0
            with_rows.add(made.asset_key.path[-1])
    assert {
        "retrieved_set",
        "control_set",
        "domain_results",
        "comparison",
        "promotion",
        "overview",
    } <= seen
    assert {"evaluation_set", "retrieved_set", "control_set", "domain_results"} <= with_rows


def test_every_step_logs_a_line_at_its_begin_and_end(launched: Launched) -> None:
    ends = [line.partition(":")[0] for line in launched.lines if ": built, " in line]
    edges = [
        line.partition(" ...")[0].partition(":")[0]
        for line in launched.lines
        if "..." in line or ": built, " in line
    ]
    assert len(set(ends)) == 15 and edges == [name for name in ends for _ in range(2)]
    assert "customized_checkpoint shapes/gated-image ..." in launched.lines


def test_every_run_is_in_dagster_with_passed_blocking_checks(
    launched: Launched,
) -> None:
    runs = [launched.instance.get_run_by_id(run_id) for run_id in launched.first.run_ids]
    assert {run.status for run in runs if run} == {dg.DagsterRunStatus.SUCCESS}
    checks = [
        entry.dagster_event.asset_check_evaluation_data
        for run_id in launched.first.run_ids
        for entry in launched.instance.all_logs(
            run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        if entry.dagster_event
    ]
    assert {check.check_name for check in checks} >= {
        "vectors_are_finite_and_unit_norm",
        "index_holds_every_row",
        "recall_is_sufficient",
        "classes_have_pairs",
        "retrieved_set_holds_no_evaluation_image",
        "control_set_holds_no_evaluation_image",
        "loss_is_finite",
        "training_starts_at_the_base",
        "accuracy_is_at_least_base",
        "gain_is_not_shared_by_the_control",
    }
    assert all(check.passed for check in checks if check.blocking)


def test_table_mlflow_and_dagster_give_the_same_numbers(launched: Launched) -> None:
    table = comparison_table(launched.project, ["shapes"])
    client = MlflowClient(launched.project.config.tracking_uri)
    for row in table[table["domain"] == "shapes"].itertuples():
        shown = metadata_of(
            launched.instance, "domain_results", partition_of(f"shapes/{row.method}")
        )
        run = client.get_run(str(shown["mlflow_run_id"]))
        for metric in ("top1", "top5", "mean_per_class"):
            assert getattr(row, metric) == shown[metric] == run.data.metrics[metric]
        assert shown["fingerprint"] == run.data.tags["fingerprint"]


def test_metadata_are_typed_and_can_be_looked_at(launched: Launched) -> None:
    retrieved = metadata_of(launched.instance, "retrieved_set", "shapes")
    assert isinstance(retrieved["pairs"], int) and retrieved["pairs"] > 0
    assert retrieved["reused"] is False
    assert str(retrieved["contact_sheet"]).startswith("![contact_sheet](data:image/jpeg")
    assert "| circle |" in str(retrieved["table"])
    checkpoint = metadata_of(
        launched.instance, "customized_checkpoint", partition_of("shapes/gated-image")
    )
    assert "loss" in checkpoint and isinstance(checkpoint["final_loss"], float)
    compared = metadata_of(launched.instance, "comparison", "shapes")
    assert "gated-image-control" in str(compared["table"]) and "comparison" in compared
    assert str(compared["dashboard"]).endswith("dashboard.html")
    overviewed = metadata_of(launched.instance, "overview", None)
    assert "mean" in str(overviewed["table"]) and "overview" in overviewed
    measured = metadata_of(launched.instance, "domain_results", partition_of("shapes/base"))
    assert str(measured["accuracy"]).startswith("![accuracy](data:image/jpeg")


def test_data_versions_are_the_fingerprints(launched: Launched) -> None:
    artifact = launched.project.store.current("retrieved_set", "shapes")
    event = launched.instance.get_latest_materialization_event(dg.AssetKey("retrieved_set"))
    assert event and event.asset_materialization
    assert event.asset_materialization.tags["dagster/data_version"] == artifact.fingerprint


def test_failure_of_one_domain_stops_only_what_depends_on_it(launched: Launched) -> None:
    domain = {
        "classes": ["circle", "square"],
        "retrieval": {"min_similarity": {"t2t": 2.0, "t2i": 2.0}},
    }
    (launched.project.config.domains / "nothing.yaml").write_text(yaml.safe_dump(domain))
    lines: list[str] = []
    summary = materialize(
        "*", ["nothing", "shapes"], ("base", "gated-image"), launched.project.path, lines.append
    )
    (launched.project.config.domains / "nothing.yaml").unlink()
    (failed,) = summary.failed.items()
    assert (
        failed[0] == ("retrieved_set", "nothing") and "no pair is left for any class" in failed[1]
    )
    assert summary.skipped == {
        ("customized_checkpoint", "nothing/gated-image"): "retrieved_set nothing failed",
        (
            "domain_results",
            "nothing/gated-image",
        ): "customized_checkpoint nothing/gated-image failed",
    }
    assert (
        "retrieved_set nothing: failed" in lines
        and "domain_results nothing/gated-image: skipped" in lines
    )
    built = {line.partition(": built")[0] for line in lines if ": built, " in line}
    assert built >= {"domain_results nothing/base", "comparison nothing", "overview"}
    assert not [line for line in built if " shapes" in line] and summary.reused >= 9


def process_of(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run that is started, by a process that is over, as when it was killed."""
    run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: instance.add_run_tags(run.run_id, process_tags(instance, run.run_id))
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    return run


@dg.job
def empty() -> None: ...


def test_a_run_whose_process_is_dead_is_closed() -> None:
    started = {"status": dg.DagsterRunStatus.STARTED}
    with dg.DagsterInstance.local_temp() as instance:
        dead = process_of(instance)
        alive = instance.create_run_for_job(empty, **started)
        instance.add_run_tags(alive.run_id, process_tags(instance, alive.run_id))
        unknown = instance.create_run_for_job(empty, **started)
        tags = {PROCESS_TAG: f"another 1 {unknown.run_id}"}
        instance.add_run_tags(unknown.run_id, tags)
        # Dagster copies tags to the run that tries again, whose process has not begun.
        copied = instance.get_run_by_id(dead.run_id).tags[PROCESS_TAG]
        instance.create_run_for_job(empty, tags={PROCESS_TAG: copied}, **started)
        instance.create_run_for_job(empty, **started)
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        storage.claim_concurrency_slot("gpu", dead.run_id, "step")
        assert reap_abandoned(instance) == [dead.run_id]
        assert not storage.get_concurrency_info("gpu").claimed_slots
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        locks = Path(instance.root_directory) / "processes"
        assert len([*locks.glob("*.lock")]) == 1, "that of the dead process is removed"
        assert reap_abandoned(instance) == []


def test_a_run_whose_lock_was_removed_is_closed() -> None:
    with dg.DagsterInstance.local_temp() as instance:
        dead = process_of(instance)
        shutil.rmtree(Path(instance.root_directory) / "processes")
        assert reap_abandoned(instance) == [dead.run_id]


@dg.op
def end_unreported() -> None:
    os._exit(0)


@dg.job(executor_def=runs.in_process)
def unreported() -> None:
    end_unreported()


def test_a_run_whose_process_could_not_report_its_end_is_closed() -> None:
    assert build_defs().resolve_implicit_global_asset_job_def().executor_def is runs.in_process

    def execute(instance: dg.DagsterInstance) -> None:
        job = dg.reconstructable(unreported)
        dg.execute_job(job, instance, tags={runs.CODE_SERVER_TAG: "{}"})

    with dg.DagsterInstance.local_temp() as instance:
        # As when the database is gone for minutes: the process ends by itself.
        process = multiprocessing.get_context("fork").Process(target=execute, args=(instance,))
        process.start()
        process.join()
        assert process.exitcode == 0
        (run,) = instance.get_runs()
        assert reap_abandoned(instance) == [run.run_id]


@pytest.mark.slow
def test_a_run_that_loses_its_database_before_steps_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, url = postgres_server(tmp_path / "server")
    monkeypatch.setenv("DAGSTER_COMPUTE_LOGS", str(tmp_path / "logs"))
    address = url.replace("postgresql", "postgresql+psycopg2")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", f"{address}/dagster")
    with dagster_home(tmp_path / "home") as home:
        with (home / "dagster.yaml").open("a") as file:
            file.write((REPOSITORY / "dagster_home" / "production" / "storage.yaml").read_text())
        with running(command, tmp_path / "first.log", cwd="/") as server:
            create_databases(url)
            process = multiprocessing.get_context("fork").Process(
                target=start_and_lose_the_database, args=(server.pid,)
            )
            process.start()
            process.join()
            assert process.exitcode == 0 and server.wait() == 0
        with running(command, tmp_path / "second.log", cwd="/"):
            connect(url).close()
            with dg.DagsterInstance.get() as instance:
                (run,) = instance.get_runs()
                assert run.status == dg.DagsterRunStatus.STARTED
                assert not instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
                assert reap_abandoned(instance) == [run.run_id]
                assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def start_and_lose_the_database(pid: int) -> None:
    execute = InProcessExecutor.execute

    def lose_and_execute(*arguments: Any) -> Iterator[dg.DagsterEvent]:
        os.kill(pid, signal.SIGQUIT)
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # its parent waits for us
            time.sleep(0.05)
        return execute(*arguments)

    InProcessExecutor.execute = lose_and_execute
    with dg.DagsterInstance.get() as instance, pytest.raises(Exception, match="onnection"):
        dg.execute_job(dg.reconstructable(unreported), instance, tags={runs.CODE_SERVER_TAG: "{}"})


def test_a_run_that_ends_while_it_is_judged_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
        instance.report_run_canceled(run)
        return True

    monkeypatch.setattr(runs, "_is_dead", ends)
    with dg.DagsterInstance.local_temp() as instance:
        instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED)
        assert reap_abandoned(instance) == []


def test_selection_becomes_runs_in_the_order_of_the_data() -> None:
    assert plan(build_defs(), "+comparison", ["a"], ["gated-image", "base"]) == [
        ("domain_results", "a/base"),
        ("domain_results", "a/gated-image"),
        ("comparison", "a"),
    ]
    everything = plan(build_defs(), "*", ["b", "a"], ["base"])
    domain = ["retrieved_set", "domain_results", "comparison", "promotion"]
    shared = ["corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"]
    sets = ["evaluation_set"] * 2
    assert [stage for stage, _ in everything] == [*shared, *sets, *domain, *domain, "overview"]
    assert [key.split("/")[0] for _, key in everything] == [
        *["all"] * 4,
        "b",
        "a",
        *["b"] * 4,
        *["a"] * 4,
        "all",
    ]


@pytest.mark.parametrize("selection", ["nosuch", "(", "group:nothing", "control_set"])
def test_wrong_selection_is_reported_in_one_line(selection: str) -> None:
    with pytest.raises(InputError, match="--select") as error:
        plan(build_defs(), selection, ["a"], ["base"])
    assert "\n" not in str(error.value)


def again(project: Project, selection: str, **sections: Any) -> int:
    """How many runs a selection starts after a change of pipeline.yaml."""
    raw = yaml.safe_load(project.path.read_text())
    project.path.write_text(
        yaml.safe_dump({**raw, **{name: {**raw[name], **sections[name]} for name in sections}})
    )
    summary = materialize(selection, ["shapes"], ["base"], project.path)
    assert not summary.built and summary.reused == 1
    return len(summary.run_ids)


def test_files_that_look_different_are_read_again(indexed_project: Project, tmp_path: Path) -> None:
    images = tmp_path / "images"
    domain = indexed_project.config.domains / "shapes.yaml"
    raw = yaml.safe_load(domain.read_text())
    shutil.copytree(raw["evaluation"]["path"], images)
    domain.write_text(
        yaml.safe_dump({**raw, "evaluation": {**raw["evaluation"], "path": str(images)}})
    )
    with dagster_home(tmp_path / "home"):
        materialize("evaluation_set", ["shapes"], ["base"], indexed_project.path)
        assert again(indexed_project, "evaluation_set") == 0
        os.utime(next(images.rglob("*.png")), (1, 1))
        assert again(indexed_project, "evaluation_set") == 1
        assert again(indexed_project, "evaluation_set") == 0


@pytest.mark.slow
def test_what_follows_another_image_is_built_in_the_same_launch(
    indexed_project: Project, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    domain = indexed_project.config.domains / "shapes.yaml"
    raw = yaml.safe_load(domain.read_text())
    shutil.copytree(raw["evaluation"]["path"], images)
    domain.write_text(
        yaml.safe_dump(raw | {"evaluation": {**raw["evaluation"], "path": str(images)}})
    )
    pipeline = yaml.safe_load(indexed_project.path.read_text())
    pipeline["retrieval"]["decontaminate"] = "all"
    indexed_project.path.write_text(yaml.safe_dump(pipeline))
    both = "key:evaluation_set or key:retrieved_set"

    def built() -> int:
        slugs = ["colours", "shapes"]
        return materialize(both, slugs, ["gated-image"], indexed_project.path).built

    with dagster_home(tmp_path / "home"):
        assert built() == 4
        Image.new("RGB", (64, 64), "red").save(next(images.rglob("*.png")))
        assert built() == 3  # the pairs of both domains
        assert built() == 0


def test_index_is_checked_again_by_another_threshold(
    indexed_project: Project, tmp_path: Path
) -> None:
    with dagster_home(tmp_path / "home"):
        assert again(indexed_project, "faiss_index") == 1
        assert again(indexed_project, "faiss_index") == 0
        assert again(indexed_project, "faiss_index", index={"min_recall": 0.5}) == 1
        assert again(indexed_project, "faiss_index", retrieval={"max_starving_fraction": 0.5}) == 0


def test_encoder_of_a_fresh_checkpoint_is_not_looked_up_again(
    indexed_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "react_pipeline.assets.launch.encoder_problems", lambda _project: pytest.fail("looked up")
    )
    with dagster_home(tmp_path / "home"):
        assert not materialize("base_checkpoint", config_path=indexed_project.path).failed


def test_run_that_ended_before_its_checks_is_started_again(
    indexed_project: Project, tmp_path: Path
) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    with dagster_home(tmp_path / "home"):
        with open_instance(indexed_project) as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("faiss_index"))
        await_checks(indexed_project, artifact, blocking_checks("faiss_index"))
        assert again(indexed_project, "faiss_index") == 1
        assert again(indexed_project, "faiss_index") == 0


def test_artifact_that_mlflow_has_lost_is_logged_again(
    indexed_project: Project, tmp_path: Path
) -> None:
    with dagster_home(tmp_path / "home"):
        assert again(indexed_project, "corpus") == 1
        client = MlflowClient(indexed_project.config.tracking_uri)
        (experiment,) = client.search_experiments(
            filter_string=f"name = '{indexed_project.config.project}'"
        )
        (run,) = client.search_runs([experiment.experiment_id], "tags.asset = 'corpus'")
        assert again(indexed_project, "corpus") == 0
        client.delete_run(run.info.run_id)
        assert again(indexed_project, "corpus") == 0
        assert client.search_runs([experiment.experiment_id], "tags.asset = 'corpus'")


def test_wrong_domain_or_method_runs_nothing(tiny_project: Project, tmp_path: Path) -> None:
    with dagster_home(tmp_path / "home"):
        for domains, methods in (
            [["nosuch"], ["base"]],
            [["shapes"], ["nosuch"]],
            [["../shapes"], ["base"]],
        ):
            with pytest.raises(InputError):
                materialize("*", domains, methods, tiny_project.path)
    assert not tiny_project.config.store.exists()


def test_tracking_that_is_down_fails_no_run(
    indexed_project: Project, tmp_path: Path
) -> None:  # FAULTS 29
    raw = yaml.safe_load(indexed_project.path.read_text())
    indexed_project.path.write_text(yaml.safe_dump({**raw, "tracking_uri": "http://127.0.0.1:9"}))
    with dagster_home(tmp_path / "home"):
        summary = materialize("evaluation_set", ["shapes"], ["base"], indexed_project.path)
        assert not summary.failed
        with open_instance(indexed_project) as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey("evaluation_set"))
    assert event and event.asset_materialization
    assert "will be logged at the next run" in str(
        event.asset_materialization.metadata["mlflow"].value
    )
    indexed_project.path.write_text(yaml.safe_dump(raw))
    with dagster_home(tmp_path / "home"):
        materialize("evaluation_set", ["shapes"], ["base"], indexed_project.path)
    (run,) = runs_of(Tracking.of(indexed_project), asset="evaluation_set")
    assert run.info.status == "FINISHED"


def test_a_check_that_warns_is_a_line_of_the_output() -> None:
    @dg.asset(name="corpus")
    def made() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"reused": False})

    @dg.asset_check(asset="corpus")
    def warns() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description="odd names"
        )

    assert "corpus: warning: odd names" in lines_of_run(made, warns, place=("corpus", ALL))


def lines_of_run(
    *definitions: dg.AssetsDefinition | dg.AssetChecksDefinition,
    place: Place = ("made", "one"),
) -> list[str]:
    """Lines of a run of the asset `made` for the domain `one`."""
    checks = [one for one in definitions if isinstance(one, dg.AssetChecksDefinition)]
    assets = [one for one in definitions if not isinstance(one, dg.AssetChecksDefinition)]
    lines: list[str] = []
    with dg.DagsterInstance.local_temp() as instance:
        defs = dg.Definitions(assets, asset_checks=checks)
        Launch(Project(Path("nowhere"), None), defs, instance, lines.append).run_place(place)
    return lines


def test_steps_that_are_not_run_after_a_failure_have_no_line() -> None:
    partitions = dg.StaticPartitionsDefinition(["one"])

    @dg.asset(partitions_def=partitions)
    def made() -> None:
        raise dg.Failure("broken")

    @dg.asset_check(asset="made")
    def whole() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    assert lines_of_run(made, whole) == ["made one: failed"]


@pytest.mark.parametrize("launcher", ["K8sRunLauncher", "DockerRunLauncher"])
def test_nothing_is_built_in_place_of_another_launcher(
    launcher: str, tiny_project: Project, tmp_path: Path
) -> None:
    module = {"K8sRunLauncher": "dagster_k8s", "DockerRunLauncher": "dagster_docker"}[launcher]
    with dagster_home(tmp_path / "home") as home:
        with (home / "dagster.yaml").open("a") as file:
            file.write(f"\nrun_launcher: {{module: {module}, class: {launcher}}}\n")
        with pytest.raises(InputError, match=launcher):
            materialize("corpus", config_path=tiny_project.path)
