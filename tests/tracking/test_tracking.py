from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import write_project
from mlflow import MlflowClient
from support.promotion import publish_results, result
from support.tracking import STEPS, artifact_of, runs_of, tracking_at

from react_pipeline.evaluation import compare
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.project import Project
from react_pipeline.store import Store
from react_pipeline.tracking import Tracking, rows_of_record
from react_pipeline.tracking.datasets import dataset_inputs


def test_artifact_becomes_finished_run_below_run_of_its_domain(tracking: Tracking) -> None:
    retrieved = artifact_of(tracking.project, "retrieved_set", "shapes")
    place, parents = ("customized_checkpoint", "shapes/gated-image"), {"retrieved_set": retrieved}
    checkpoint = artifact_of(tracking.project, *place, parents=parents)
    run_id = tracking.log_artifact(checkpoint, "dagster-1")
    (parent,) = runs_of(tracking, **{"react.parent": "shapes"})
    (run,) = runs_of(tracking, fingerprint=checkpoint.fingerprint)
    assert run.info.run_id == run_id
    assert run.info.status == parent.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    names = {"domain": "shapes", "method": "gated-image"}
    expected = {**names, "asset": place[0], "dagster.run_id": "dagster-1"}
    expected["parents"] = json.dumps({"retrieved_set": retrieved.fingerprint})
    assert expected.items() <= run.data.tags.items()
    config = {"seed": "0", "training.steps": str(STEPS), "training.modes": '["t2t", "t2i"]'}
    assert run.data.params == {**config, **names}
    assert {"pairs": 7, "seconds": 1.5, "dropped.cap": 2}.items() <= run.data.metrics.items()
    client = MlflowClient(tracking.uri)
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [
        (step, 1 / (1 + step)) for step in range(STEPS)
    ]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"table.csv", "manifest.json"} <= files
    assert tracking.log_artifact(checkpoint, "dagster-2") == run_id
    # What it is made from was logged before it, by no run of Dagster.
    (before,) = runs_of(tracking, fingerprint=retrieved.fingerprint)
    assert "dagster.run_id" not in before.data.tags
    assert tracking.log_artifact(retrieved, "dagster-1") == before.info.run_id
    (before,) = runs_of(tracking, fingerprint=retrieved.fingerprint)
    assert before.data.tags["dagster.run_id"] == "dagster-1"


def test_files_lie_beside_the_store_where_no_server_is_the_uri(
    make_project: Callable[..., Project],
    mlflow_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(mlflow_database, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    # The driver in its name makes it a database as PostgreSQL is, and not our SQLite file.
    uri = f"sqlite+pysqlite:///{tmp_path}/elsewhere/mlflow.db"
    project = make_project(tracking_uri=uri)
    checkpoint = artifact_of(project, "customized_checkpoint", "shapes/gated-image")
    run_id = Tracking(project).log_artifact(checkpoint)
    assert run_id
    files = project.config.store.resolve().with_name("mlartifacts")
    assert MlflowClient(uri).get_run(run_id).info.artifact_uri.startswith(f"{files.as_uri()}/")
    assert [path.name for path in files.rglob("table.csv")] == ["table.csv"]
    assert not (tmp_path / "elsewhere" / "mlruns").exists()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Tracking:
    """Logged results of three methods, their comparison, and the overview."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(mlflow_database, folder)
    project = write_project(folder, folder / "none", folder / "none")
    half = [True, False] * 6
    answers = {"base": half, "gated-image": [True] * 12, "gated-image-control": half}
    publish_results(project, "shapes", answers)
    compare(project, "shapes")
    overview(project)
    tracking = Tracking(project)
    assert tracking.sync()
    return tracking


def test_results_of_all_methods_can_be_compared_by_same_metrics(compared: Tracking) -> None:
    keys = {"top1", "top5", "mean_per_class", "n", "n_classes", "seconds"}
    keys |= {"pairs", "trainable_parameters", "training_seconds"}
    keys |= {"delta_top1", "delta_top1_low", "delta_top1_high"}
    gain = {"gain_over_control", "gain_over_control_low", "gain_over_control_high"}
    comparison = compared.project.store.current("comparison", "shapes")
    table = pd.read_parquet(comparison.file("table.parquet")).set_index("method")
    for method, more in {"base": set(), "gated-image": gain, "gated-image-control": set()}.items():
        (run,) = runs_of(compared, asset="domain_results", method=method)
        assert run.info.run_name == f"shapes/{method}"  # MLflow cuts long names in comparisons
        assert set(run.data.metrics) == keys | more
        assert run.data.metrics["delta_top1"] == table.loc[method, "delta_top1"]
        assert run.data.metrics["trainable_parameters"] == table.loc[method, "trainable_parameters"]
        names = {"domain": "shapes", "method": method}
        assert names.items() <= run.data.params.items() and names.items() <= run.data.tags.items()
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == [
            "evaluation_set-shapes"
        ]


def test_a_result_has_tables_and_a_confusion_matrix(compared: Tracking) -> None:
    (run,) = runs_of(compared, asset="domain_results", method="base")
    client = MlflowClient(compared.uri)

    def table(name: str) -> pd.DataFrame:
        text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}.json")
        content = json.loads(text)
        return pd.DataFrame(content["data"], columns=content["columns"])

    # MLflow's page of tables lists those that this tag names.
    listed = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert listed == {"per_class.json", "confusion.json", "predictions.json"}
    assert "confusion.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
    names = compared.project.domain("shapes").class_names
    assert table("per_class")["class"].tolist() == names
    confusion = table("confusion")
    assert confusion["images"].sum() == 6 and (confusion["class"] != confusion["predicted"]).all()
    predictions = table("predictions")
    assert predictions["right"].tolist() == [False] * 6 + [True] * 6
    shown = predictions.set_index("image").loc["000001.png"]
    assert (shown["class"], shown["predicted"]) == (names[1], names[2 % len(names)])
    # A log that was killed before its end writes no row twice.
    client.update_run(run.info.run_id, status="RUNNING")
    result = compared.project.store.current("domain_results", "shapes/base")
    assert compared.log_artifact(result) == run.info.run_id
    assert len(table("predictions")) == 12


def test_an_unavailable_result_has_a_run_without_tables(tracking: Tracking) -> None:
    run_id = tracking.log_artifact(result(tracking.project, "shapes", "base", None))
    assert run_id is not None
    files = {file.path for file in MlflowClient(tracking.uri).list_artifacts(run_id)}
    assert "manifest.json" in files and "predictions.json" not in files


def test_runs_name_user_project_and_commit(tracking: Tracking) -> None:
    project = tracking.project
    folder = project.path.parent
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in ("init -q", "add pipeline.yaml", "commit -q -m first"):
        subprocess.run([*git, *command.split()], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    tracking.log_artifact(artifact_of(project, "corpus", "all"))
    (run,) = runs_of(tracking, asset="corpus")
    assert run.data.tags["mlflow.source.name"] == str(project.path)
    assert run.data.tags["mlflow.source.git.commit"] == head
    assert run.data.tags["mlflow.user"] == run.info.user_id == getpass.getuser()


def test_models_are_ranked_by_what_was_measured_of_them(compared: Tracking) -> None:
    client = MlflowClient(compared.uri)
    (result,) = runs_of(compared, asset="domain_results", method="gated-image")
    dataset = result.inputs.dataset_inputs[0].dataset
    for figure in ("delta_top1", "top1"):
        order = {"field_name": f"metrics.{figure}", "ascending": False}
        order["dataset_name"] = dataset.name
        best, *others = client.search_logged_models([result.info.experiment_id], order_by=[order])
        assert best.name == "shapes-gated-image"
    assert best.params == {"domain": "shapes", "method": "gated-image"}
    assert sorted(model.name for model in others) == ["base", "shapes-gated-image-control"]
    figures = {metric.key: metric for metric in best.metrics}
    assert (figures["top1"].value, figures["delta_top1"].value) == (1.0, 0.5)
    # Each has a chart, as large as that of the accuracy.
    assert not {"n", "pairs", "training_seconds", "delta_top1_low"} & set(figures)
    assert (figures["top1"].dataset_name, figures["top1"].dataset_digest) == (
        dataset.name,
        dataset.digest,
    )
    # A search leaves models out.
    result = client.get_run(result.info.run_id)
    assert [one.model_id for one in result.inputs.model_inputs] == [best.model_id]
    (training,) = runs_of(compared, asset="customized_checkpoint", method="gated-image")
    training = client.get_run(training.info.run_id)
    assert [one.model_id for one in training.outputs.model_outputs] == [best.model_id]
    (base,) = (model for model in others if model.name == "base")
    assert [one.model_id for one in training.inputs.model_inputs] == [base.model_id]
    assert json.loads(best.tags["mlflow.modelVersions"])[0]["name"] == "react-shapes"
    (version,) = client.search_model_versions("name = 'react-shapes'")  # no control is one
    assert version.tags["method"] == "gated-image" and not version.aliases


def test_a_run_links_to_dagster_where_its_address_is_set(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tags(key: str) -> dict[str, str]:
        tracking.log_artifact(artifact_of(tracking.project, "domain_results", key), "0123456789ab")
        (run,) = runs_of(tracking, asset="domain_results", method=key.rpartition("/")[2])
        return run.data.tags

    reported = tags("shapes/base")
    assert reported["mlflow.note.content"].startswith(
        "**domain_results** of `shapes`, method `base`: zero-shot"
    )
    assert "dagster.run_url" not in reported and "0123456789ab" in reported["mlflow.note.content"]
    monkeypatch.setenv("REACT_DAGSTER_URL", "http://127.0.0.1:3000/")
    linked = tags("shapes/full")
    assert linked["dagster.run_url"] == "http://127.0.0.1:3000/runs/0123456789ab"
    assert f"({linked['dagster.run_url']})" in linked["mlflow.note.content"]


def test_data_sets_have_a_schema_and_their_size(
    compared: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = runs_of(compared, asset="customized_checkpoint", method="gated-image")
    datasets = {entry.dataset.name: entry.dataset for entry in run.inputs.dataset_inputs}
    dataset = datasets["retrieved_set-shapes"]
    retrieved = compared.project.store.current("retrieved_set", "shapes")
    assert dataset.digest == retrieved.fingerprint
    assert json.loads(dataset.source)["uri"] == Path(retrieved.address).as_uri()
    table = pd.read_parquet(retrieved.file("pairs.parquet"))
    profile = {"num_rows": len(table), "num_elements": table.size}
    assert json.loads(dataset.profile) == profile
    columns = {one["name"]: one["type"] for one in json.loads(dataset.schema)["mlflow_colspec"]}
    assert columns == {"row": "long", "class": "string", "similarity": "double"}
    monkeypatch.setattr(Store, "address", lambda *place: f"s3://bucket/{place[1]}/{place[2]}")
    source = dataset_inputs(compared.project, retrieved)[-1].dataset
    assert source.source_type == "s3"
    uri = f"s3://bucket/retrieved_set/shapes/{retrieved.fingerprint}"
    assert json.loads(source.source) == {"uri": uri}


def test_the_sets_of_a_run_say_whether_models_train_on_them(tracking: Tracking) -> None:
    project = tracking.project
    contexts = {"evaluation_set": "evaluation"}
    contexts |= dict.fromkeys(("few_shot_set", "retrieved_set"), "training")
    parents = {name: artifact_of(project, name, "shapes") for name in contexts}
    tracking.log_artifact(artifact_of(project, "control_set", "shapes", parents=parents))
    (run,) = runs_of(tracking, asset="control_set")
    found = {
        entry.dataset.name: {tag.key: tag.value for tag in entry.tags}["mlflow.data.context"]
        for entry in run.inputs.dataset_inputs
    }
    contexts["control_set"] = "training"
    assert found == {f"{name}-shapes": context for name, context in contexts.items()}


def test_links_lead_to_the_mlflow_that_a_browser_reaches(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(mlflow_url="https://your.host:8500/")
    page = "/#/experiments/0/runs/abc?workflowType=machine_learning"
    assert Tracking(project).url("abc") == f"https://your.host:8500{page}"
    monkeypatch.setenv("REACT_MLFLOW_URL", "http://other.host")
    assert Tracking(project).url("abc") == f"http://other.host{page}"
    monkeypatch.delenv("REACT_MLFLOW_URL")
    project = make_project()
    assert tracking_at(project, "http://127.0.0.1:1").url("abc") == f"http://127.0.0.1:1{page}"
    assert Tracking(project).url("abc") is None


def test_a_long_training_gives_few_points_and_a_short_one_all() -> None:
    steps = [
        row.step for step in range(66_600) for row in rows_of_record({"step": step, "loss": 1.0})
    ]
    assert steps[:1_001] == [*range(1_000), 1_000]
    assert steps[1_001:1_003] == [1_010, 1_020]
    assert len(steps) == 2_466


def test_the_experiment_has_views_of_results_and_trainings(compared: Tracking) -> None:
    client = MlflowClient(compared.uri)
    number = compared.experiment_id
    tags = client.get_experiment(number).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    shown = json.loads(json.loads(tags["mlflow.sharedViewState.results"])["state"])
    assert client.search_runs([number], shown["searchFilter"])
    assert {*shown["selectedColumns"], "attributes.`Run Name`"} == {*shown["columnOrder"]}
    assert json.loads(json.loads(tags["mlflow.sharedViewState.cost"])["state"])["orderByAsc"]
    link = f"[Gain beside control](#/experiments/{number}/runs?workflowType=machine"
    assert link in tags["mlflow.note.content"]
