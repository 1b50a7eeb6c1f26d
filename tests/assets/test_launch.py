from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from conftest import write_project
from mlflow import MlflowClient
from PIL import Image
from support.launch import code_location, dagster_home, metadata_of
from support.tracking import runs_of
from support.upkeep import change_pipeline, edit_domain

from react_pipeline import settings
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import Launch, Summary, materialize, open_instance, plan
from react_pipeline.assets.partitions import to_partition_key
from react_pipeline.assets.runs import CODE_SERVER_TAG, in_process, reap_abandoned, shown_alive
from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.failures import await_checks
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError
from react_pipeline.tracking.log import Tracking

METHODS = ("base", "gated-image", "gated-image-control")


@dataclass
class Launched:
    project: Project
    first: Summary
    second: Summary
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
    shutil.copy(mlflow_database, directory)
    with dagster_home(directory / "home"):
        first, second = (
            materialize("*", ["shapes"], METHODS, project.path) for _ in ("first", "second")
        )
        with open_instance(project) as instance:
            yield Launched(project, first, second, instance)


def test_a_fresh_relative_home_is_used_with_settings_of_package(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "fresh/home")
    with open_instance(tiny_project) as instance:
        assert instance.root_directory == str(tmp_path / "fresh" / "home")
        assert instance.run_monitoring_enabled and instance.run_retries_enabled
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
    runs = launched.instance.get_runs(dg.RunsFilter(run_ids=launched.first.run_ids))
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    shown = max(({name for name in run.tags if "dagster/" not in name} for run in runs), key=len)
    assert shown == {"user", "domain", "method"}


def test_lineage_of_a_finished_project_is_green_throughout(launched: Launched) -> None:
    instance = launched.instance
    for node in code_location(launched.project).resolve_asset_graph().asset_nodes:
        keys = node.partitions_def.get_partition_keys(None, instance) if node.partitions_def else []
        if node.is_external:
            seen = instance.fetch_observations(node.key, limit=100).records
            assert "shapes" in {record.partition_key for record in seen}
            continue
        ours = {key for key in keys if key.startswith("shapes")}
        assert ours <= instance.get_materialized_partitions(node.key), node.key
        assert instance.get_latest_materialization_event(node.key) is not None, node.key


def test_table_mlflow_and_dagster_give_the_same_numbers(launched: Launched) -> None:
    client = MlflowClient(launched.project.config.tracking_uri)
    for row in comparison_table(launched.project, ["shapes"]).itertuples():
        key = to_partition_key(f"shapes/{row.method}")
        shown = metadata_of(launched.instance, "domain_results", key)
        run = client.get_run(str(shown["mlflow_run_id"]))
        for metric in ("top1", "top5", "mean_per_class"):
            assert getattr(row, metric) == shown[metric] == run.data.metrics[metric]
        assert shown["fingerprint"] == run.data.tags["fingerprint"]
    retrieved = launched.project.store.current("retrieved_set", "shapes")
    event = launched.instance.get_latest_materialization_event(dg.AssetKey("retrieved_set"))
    tags = event.asset_materialization.tags
    assert tags["dagster/data_version"] == retrieved.fingerprint


def test_failure_of_one_domain_stops_only_what_depends_on_it(launched: Launched) -> None:
    path, lines = launched.project.config.domains / "nothing.yaml", list[str]()
    path.write_text("{classes: [circle, square], retrieval: {min_similarity: {t2t: 2, t2i: 2}}}")
    slugs, methods = ["nothing", "shapes"], ("base", "gated-image")
    summary = materialize("*", slugs, methods, launched.project.path, lines.append)
    path.unlink()
    ((place, reason),) = summary.failed.items()
    assert place == ("retrieved_set", "nothing") and "no pair is left for any class" in reason
    key = "nothing/gated-image"
    assert summary.skipped == {
        ("customized_checkpoint", key): "retrieved_set nothing failed",
        ("domain_results", key): f"customized_checkpoint {key} failed",
    }
    assert {"retrieved_set nothing: failed", f"domain_results {key}: skipped"} <= {*lines}
    built = {line.partition(": built")[0] for line in lines if ": built, " in line}
    assert built >= {"domain_results nothing/base", "comparison nothing", "overview"}
    assert not [line for line in built if " shapes" in line] and summary.reused >= 9


@dg.job
def empty() -> None: ...


@dg.op
def end_unreported() -> None:
    os._exit(0)


@dg.job(executor_def=in_process)
def unreported() -> None:
    end_unreported()


def killed(target: Callable[[], object]) -> None:
    """Call something in a process that ends without a word, as when it is killed."""
    process = multiprocessing.get_context("fork").Process(target=lambda: (target(), os._exit(0)))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_run_whose_process_is_dead_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.local_temp() as instance:
        dead, ended, alive, unknown, elsewhere = (
            instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED).run_id
            for _ in range(5)
        )
        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda: "elsewhere")
            killed(lambda: shown_alive(instance, elsewhere).__enter__())
        for run_id in (dead, ended):
            killed(lambda run_id=run_id: shown_alive(instance, run_id).__enter__())
        instance.report_run_canceled(instance.get_run_by_id(ended))
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        storage.claim_concurrency_slot("gpu", dead, "step")
        with shown_alive(instance, alive):
            assert reap_abandoned(instance) == [dead]
            assert not storage.get_concurrency_info("gpu").claimed_slots
            status = {run.run_id: run.status.value for run in instance.get_runs()}
            assert (status[dead], status[ended]) == ("FAILURE", "CANCELED")
            assert status[alive] == status[unknown] == status[elsewhere] == "STARTED"
            locks = Path(instance.root_directory) / "processes"
            held = {path.stem for path in locks.glob("*.lock")}
            assert held == {f"{platform.node()} {alive}", f"elsewhere {elsewhere}"}
            assert reap_abandoned(instance) == []


@pytest.mark.parametrize("watched", [True, False])
def test_a_run_whose_process_could_not_report_its_end_is_closed(watched: bool) -> None:
    assert build_defs().resolve_implicit_global_asset_job_def().executor_def is in_process
    with dg.DagsterInstance.local_temp() as instance:
        # As when the database is gone for minutes: the process ends by itself.
        tags = {CODE_SERVER_TAG: "{}"} if watched else {}
        killed(lambda: dg.execute_job(dg.reconstructable(unreported), instance, tags=tags))
        (run,) = instance.get_runs()
        # No pod of Kubernetes need write into the Dagster home.
        assert (Path(instance.root_directory) / "processes").exists() == watched
        assert reap_abandoned(instance) == [run.run_id] * watched


def chosen(*names: str) -> dict[str, settings.Method]:
    return {name: settings.METHODS[name] for name in names}


def test_selection_becomes_runs_in_the_order_of_the_data() -> None:
    assert plan(build_defs(), "+comparison", ["a"], chosen("base", "gated-image")) == [
        ("domain_results", "a/base"),
        ("domain_results", "a/gated-image"),
        ("comparison", "a"),
    ]
    places = plan(build_defs(), "*", ["b", "a"], chosen("base"))
    shared = ["corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"]
    domain = ["retrieved_set", "domain_results", "comparison", "promotion"]
    assert [(stage, key.removesuffix("/base")) for stage, key in places] == [
        *((stage, "all") for stage in shared),
        *(("evaluation_set", slug) for slug in "ba"),
        *((stage, slug) for slug in "ba" for stage in domain),
        ("overview", "all"),
    ]


@pytest.mark.parametrize("selection", ["nosuch", "(", "group:nothing", "control_set"])
def test_wrong_selection_is_reported_in_one_line(selection: str) -> None:
    with pytest.raises(InputError, match="--select") as error:
        plan(build_defs(), selection, ["a"], chosen("base"))
    assert "\n" not in str(error.value)


def test_wrong_domain_or_method_runs_nothing(tiny_project: Project) -> None:
    for domain, method in (("nosuch", "base"), ("shapes", "nosuch"), ("../shapes", "base")):
        with pytest.raises(InputError):
            materialize("*", [domain], [method], tiny_project.path)
    assert not tiny_project.config.store.exists()


def again(project: Project, selection: str, **sections: Any) -> int:
    """How many runs a selection starts after a change of pipeline.yaml."""
    change_pipeline(project, **sections)
    summary = materialize(selection, ["shapes"], ["base"], project.path)
    assert not summary.built and summary.reused == 1
    return len(summary.run_ids)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with dagster_home(tmp_path / "home") as home:
        yield home


@pytest.fixture
def images(indexed_project: Project, tmp_path: Path) -> Path:
    """The labelled images of `shapes` in a folder of the test's own."""
    domain = indexed_project.config.domains / "shapes.yaml"
    evaluation = yaml.safe_load(domain.read_text())["evaluation"]
    folder = shutil.copytree(evaluation["path"], tmp_path / "images")
    edit_domain(indexed_project, "shapes", evaluation={**evaluation, "path": str(folder)})
    return Path(folder)


def test_files_that_look_different_are_read_again(
    indexed_project: Project, images: Path, home: Path
) -> None:
    materialize("evaluation_set", ["shapes"], ["base"], indexed_project.path)
    assert again(indexed_project, "evaluation_set") == 0
    os.utime(next(images.rglob("*.png")), (1, 1))
    assert again(indexed_project, "evaluation_set") == 1
    assert again(indexed_project, "evaluation_set") == 0


@pytest.mark.slow
def test_what_follows_another_image_is_built_in_the_same_launch(
    indexed_project: Project, images: Path, home: Path
) -> None:
    change_pipeline(indexed_project, retrieval={"decontaminate": "all"})
    both = "key:evaluation_set or key:retrieved_set"

    def built() -> int:
        slugs = ["colours", "shapes"]
        return materialize(both, slugs, ["gated-image"], indexed_project.path).built

    assert built() == 4
    Image.new("RGB", (64, 64), "red").save(next(images.rglob("*.png")))
    assert built() == 3  # the pairs of both domains
    assert built() == 0


def test_index_is_checked_again_by_another_threshold(indexed_project: Project, home: Path) -> None:
    assert again(indexed_project, "faiss_index") == 1
    assert again(indexed_project, "faiss_index") == 0
    assert again(indexed_project, "faiss_index", index={"min_recall": 0.5}) == 1
    assert again(indexed_project, "faiss_index", retrieval={"max_starving_fraction": 0.5}) == 0


def test_run_that_ended_before_its_checks_is_started_again(
    indexed_project: Project, home: Path
) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    with open_instance(indexed_project) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("faiss_index"))
    await_checks(indexed_project, artifact, blocking_checks("faiss_index"))
    assert again(indexed_project, "faiss_index") == 1
    assert again(indexed_project, "faiss_index") == 0


def test_artifact_that_mlflow_has_lost_is_logged_again(
    indexed_project: Project, home: Path
) -> None:
    assert again(indexed_project, "corpus") == 1
    tracking = Tracking(indexed_project)
    (run,) = runs_of(tracking, asset="corpus")
    assert again(indexed_project, "corpus") == 0
    MlflowClient(tracking.uri).delete_run(run.info.run_id)
    assert again(indexed_project, "corpus") == 0
    assert runs_of(tracking, asset="corpus")


@pytest.mark.parametrize(("broken", "line"), [(False, "warning: odd names"), (True, "failed")])
def test_a_warning_is_a_line_and_a_check_not_run_is_none(broken: bool, line: str) -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["one"]))
    def made() -> dg.MaterializeResult:
        if broken:
            raise dg.Failure("broken")
        return dg.MaterializeResult(metadata={"reused": False})

    @dg.asset_check(asset=made)
    def warns() -> dg.AssetCheckResult:
        warn = dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(passed=False, severity=warn, description="odd names")

    lines: list[str] = []
    defs = dg.Definitions([made], asset_checks=[warns])
    with dg.DagsterInstance.local_temp() as instance:
        launch = Launch(Project(Path("nowhere"), None), defs, instance, lines.append)
        launch.run_place(("made", "one"))
    assert lines == [f"made one: {line}"]


def test_nothing_is_built_in_place_of_another_launcher(tiny_project: Project, home: Path) -> None:
    with (home / "dagster.yaml").open("a") as file:
        file.write("\nrun_launcher: {module: dagster_docker, class: DockerRunLauncher}\n")
    with pytest.raises(InputError, match="DockerRunLauncher"):
        materialize("corpus", config_path=tiny_project.path)
