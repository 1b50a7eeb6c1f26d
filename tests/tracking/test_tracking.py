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
from mlflow.entities import Run
from support.promotion import publish_results
from support.tracking import STEPS, artifact_of, runs_of

from react_pipeline.evaluation import compare
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.project import Project
from react_pipeline.store import Artifact, Store
from react_pipeline.tracking import Runs, Tracking, rows_of_record, run_params
from react_pipeline.tracking.datasets import dataset_inputs
from react_pipeline.tracking.values import run_metrics


def test_artifact_becomes_finished_run_below_run_of_its_domain(
    tracking: Tracking, tiny_project: Project
) -> None:
    retrieved = artifact_of(tiny_project, "retrieved_set", "shapes")
    place, parents = ("customized_checkpoint", "shapes/gated-image"), {"retrieved_set": retrieved}
    checkpoint = artifact_of(tiny_project, *place, parents=parents)
    ids = [
        tracking.log_artifact(tiny_project, artifact, "dagster-1")
        for artifact in (retrieved, checkpoint)
    ]
    (parent,) = runs_of(tracking, **{"react.parent": "shapes"})
    (run,) = runs_of(tracking, fingerprint=checkpoint.fingerprint)
    assert run.info.run_id == ids[1]
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
    assert tracking.log_artifact(tiny_project, checkpoint, "dagster-2") == ids[1]
    assert len(runs_of(tracking, fingerprint=checkpoint.fingerprint)) == 1


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
    run_id = Tracking.of(project).log_artifact(project, checkpoint)
    assert run_id
    files = project.config.store.resolve().with_name("mlartifacts")
    assert MlflowClient(uri).get_run(run_id).info.artifact_uri.startswith(f"{files.as_uri()}/")
    assert [path.name for path in files.rglob("table.csv")] == ["table.csv"]
    assert not (tmp_path / "elsewhere" / "mlruns").exists()


@pytest.fixture
def compared(tmp_path: Path) -> Project:
    """A project with published results of three methods, their comparison, and the overview."""
    project = write_project(tmp_path, tmp_path / "none", tmp_path / "none")
    half = [True, False] * 6
    answers = {"base": half, "gated-image": [True] * 12, "gated-image-control": half}
    publish_results(project, "shapes", answers)
    compare(project, "shapes")
    overview(project)
    return project


def log(
    tracking: Tracking, project: Project, stage: str, key: str, dagster_run_id: str = ""
) -> Run:
    run_id = tracking.log_artifact(project, project.store.current(stage, key), dagster_run_id)
    assert run_id
    return MlflowClient(tracking.uri).get_run(run_id)


def test_results_of_all_methods_can_be_compared_by_same_metrics(
    tracking: Tracking, compared: Project
) -> None:
    keys = {"top1", "top5", "mean_per_class", "n", "n_classes", "seconds"}
    keys |= {"pairs", "trainable_parameters", "training_seconds"}
    runs = {
        m: log(tracking, compared, "domain_results", f"shapes/{m}") for m in ("base", "gated-image")
    }
    assert runs["base"].info.run_name == "shapes/base"  # MLflow cuts long names in comparisons
    assert all(keys <= set(run.data.metrics) for run in runs.values())
    log(tracking, compared, "comparison", "shapes")
    table = pd.read_parquet(
        compared.store.current("comparison", "shapes").file("table.parquet")
    ).set_index("method")
    keys |= {"delta_top1", "delta_top1_low", "delta_top1_high"}
    gain = {"gain_over_control", "gain_over_control_low", "gain_over_control_high"}
    for method, more in {"base": set(), "gated-image": gain, "gated-image-control": set()}.items():
        (run,) = runs_of(tracking, asset="domain_results", method=method)
        assert set(run.data.metrics) == keys | more
        assert run.data.metrics["delta_top1"] == table.loc[method, "delta_top1"]
        assert run.data.metrics["trainable_parameters"] == table.loc[method, "trainable_parameters"]
        names = {"domain": "shapes", "method": method}
        assert names.items() <= run.data.params.items() and names.items() <= run.data.tags.items()
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == [
            "evaluation_set-shapes"
        ]


def test_a_result_has_tables_and_a_confusion_matrix(tracking: Tracking, compared: Project) -> None:
    run = log(tracking, compared, "domain_results", "shapes/base")
    client = MlflowClient(tracking.uri)

    def table(name: str) -> pd.DataFrame:
        text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}.json")
        content = json.loads(text)
        return pd.DataFrame(content["data"], columns=content["columns"])

    # MLflow's page of tables lists those that this tag names.
    listed = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert listed == {"per_class.json", "confusion.json", "predictions.json"}
    assert "confusion.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
    names = compared.domain("shapes").class_names
    assert table("per_class")["class"].tolist() == names
    confusion = table("confusion")
    assert confusion["images"].sum() == 6 and (confusion["class"] != confusion["predicted"]).all()
    predictions = table("predictions")
    assert predictions["right"].tolist() == [False] * 6 + [True] * 6
    shown = predictions.set_index("image").loc["000001.png"]
    assert (shown["class"], shown["predicted"]) == (names[1], names[2 % len(names)])
    # A log that was killed before its end writes no row twice.
    client.update_run(run.info.run_id, status="RUNNING")
    log(tracking, compared, "domain_results", "shapes/base")
    assert len(table("predictions")) == 12


def test_runs_name_user_project_and_commit(
    tracking: Tracking, make_project: Callable[..., Project]
) -> None:
    project = make_project()
    folder = project.path.parent
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in ("init -q", "add pipeline.yaml", "commit -q -m first"):
        subprocess.run([*git, *command.split()], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    run_id = Tracking.of(project).log_artifact(project, artifact_of(project, "corpus", "all"))
    run = MlflowClient(Tracking.of(project).uri).get_run(str(run_id))
    tags = run.data.tags
    assert tags["mlflow.source.name"] == str(project.path)
    assert tags["mlflow.source.git.commit"] == head
    assert tags["mlflow.user"] == run.info.user_id == getpass.getuser()


def test_models_are_ranked_by_what_was_measured_of_them(
    tracking: Tracking, compared: Project
) -> None:
    # The results come first: the runs of their models are written with them.
    for method in ("base", "gated-image", "gated-image-control"):
        log(tracking, compared, "domain_results", f"shapes/{method}")
    comparison = log(tracking, compared, "comparison", "shapes")
    client = MlflowClient(tracking.uri)
    (result,) = runs_of(tracking, asset="domain_results", method="gated-image")
    dataset = result.inputs.dataset_inputs[0].dataset
    for figure in ("delta_top1", "top1"):
        order = {"field_name": f"metrics.{figure}", "ascending": False}
        order["dataset_name"] = dataset.name
        best, *others = client.search_logged_models(
            [comparison.info.experiment_id], order_by=[order]
        )
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
    (training,) = runs_of(tracking, asset="customized_checkpoint", method="gated-image")
    training = client.get_run(training.info.run_id)
    assert [one.model_id for one in training.outputs.model_outputs] == [best.model_id]
    (base,) = (model for model in others if model.name == "base")
    assert [one.model_id for one in training.inputs.model_inputs] == [base.model_id]
    assert json.loads(best.tags["mlflow.modelVersions"])[0]["name"] == "react-shapes"
    (version,) = client.search_model_versions("name = 'react-shapes'")  # no control is one
    assert version.tags["method"] == "gated-image" and not version.aliases


def test_a_run_links_to_dagster_where_its_address_is_set(
    tracking: Tracking, compared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = log(tracking, compared, "domain_results", "shapes/base", "0123456789ab").data.tags
    assert reported["mlflow.note.content"].startswith(
        "**domain_results** of `shapes`, method `base`: zero-shot"
    )
    assert "dagster.run_url" not in reported and "0123456789ab" in reported["mlflow.note.content"]
    monkeypatch.setenv("REACT_DAGSTER_URL", "http://127.0.0.1:3000/")
    linked = log(tracking, compared, "comparison", "shapes", "0123456789ab").data.tags
    assert linked["dagster.run_url"] == "http://127.0.0.1:3000/runs/0123456789ab"
    assert f"({linked['dagster.run_url']})" in linked["mlflow.note.content"]


def test_the_source_of_a_set_in_a_bucket_is_its_url(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieved = artifact_of(tiny_project, "retrieved_set", "shapes")
    monkeypatch.setattr(Store, "address", lambda *place: f"s3://bucket/{place[1]}/{place[2]}")
    (entry,) = dataset_inputs(tiny_project, retrieved)
    assert entry.dataset.source_type == "s3"
    source = json.loads(entry.dataset.source)
    assert source == {"uri": f"s3://bucket/retrieved_set/shapes/{retrieved.fingerprint}"}


def test_data_sets_have_a_schema_and_their_size(tracking: Tracking, compared: Project) -> None:
    run = log(tracking, compared, "customized_checkpoint", "shapes/gated-image")
    datasets = {entry.dataset.name: entry.dataset for entry in run.inputs.dataset_inputs}
    dataset = datasets["retrieved_set-shapes"]
    retrieved = compared.store.current("retrieved_set", "shapes")
    assert dataset.digest == retrieved.fingerprint
    assert json.loads(dataset.source)["uri"] == Path(retrieved.address).as_uri()
    table = pd.read_parquet(retrieved.file("pairs.parquet"))
    profile = {"num_rows": len(table), "num_elements": table.size}
    assert json.loads(dataset.profile) == profile
    columns = {one["name"]: one["type"] for one in json.loads(dataset.schema)["mlflow_colspec"]}
    assert columns == {"row": "long", "class": "string", "similarity": "double"}


CONTEXTS = {
    "evaluation_set-shapes": "evaluation",
    "few_shot_set-shapes": "training",
    "retrieved_set-shapes": "training",
    "control_set-shapes": "training",
}


@pytest.mark.parametrize(
    ("stage", "key", "sets"),
    [
        ("few_shot_set", "shapes", ["evaluation_set", "few_shot_set"]),
        ("control_set", "shapes", ["evaluation_set", "retrieved_set", "control_set"]),
        ("customized_checkpoint", "shapes/few-shot-gda", ["few_shot_set", "retrieved_set"]),
        ("domain_results", "shapes/few-shot-gda", ["evaluation_set"]),
    ],
)
def test_the_sets_of_a_run_say_whether_models_train_on_them(
    tracking: Tracking, tiny_project: Project, stage: str, key: str, sets: list[str]
) -> None:
    others = [name for name in sets if name != stage]
    parents = {name: artifact_of(tiny_project, name, "shapes") for name in others}
    artifact = artifact_of(tiny_project, stage, key, parents=parents)
    tracking.log_artifact(tiny_project, artifact)
    (run,) = runs_of(tracking, fingerprint=artifact.fingerprint)
    contexts = {
        entry.dataset.name: {tag.key: tag.value for tag in entry.tags}["mlflow.data.context"]
        for entry in run.inputs.dataset_inputs
    }
    names = [f"{name}-shapes" for name in sets]
    assert contexts == {name: CONTEXTS[name] for name in names}


def test_links_lead_to_the_mlflow_that_a_browser_reaches(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tracking_uri="http://mlflow:5000", mlflow_url="https://your.host:8500/")
    assert (
        Tracking.of(project).url("abc")
        == "https://your.host:8500/#/experiments/0/runs/abc?workflowType=machine_learning"
    )
    assert str(Runs("http://127.0.0.1:1", "tiny").url("abc")).startswith("http://127.0.0.1:1/#/")
    assert Runs("sqlite:///mlflow.db", "tiny").url("abc") is None
    monkeypatch.setenv("REACT_MLFLOW_URL", "http://other.host")
    assert str(Tracking.of(project).url("abc")).startswith("http://other.host/#/")


def test_infinite_values_are_left_out_and_long_texts_cut(tiny_project: Project) -> None:
    counts = {"a": float("inf"), "b": True, "c": 2}
    created = "1970-01-01T00:00:01+00:00"
    manifest = {"counts": counts, "files": {}, "config": {"classes": ["x" * 9_000]}}
    manifest |= {"created": created, "key": "all"}
    artifact = Artifact(tiny_project.config.store, manifest)
    assert list(run_metrics(artifact)) == [("c", 2.0, 0, 1_000)]
    assert len(run_params(artifact)["classes"]) == 500


def test_a_long_training_gives_few_points_and_a_short_one_all() -> None:
    steps = [
        row.step for step in range(66_600) for row in rows_of_record({"step": step, "loss": 1.0})
    ]
    assert steps[:1_001] == [*range(1_000), 1_000]
    assert steps[1_001:1_003] == [1_010, 1_020]
    assert len(steps) == 2_466


def test_the_experiment_has_views_of_results_and_trainings(
    tracking: Tracking, compared: Project
) -> None:
    run = log(tracking, compared, "domain_results", "shapes/base")
    client = MlflowClient(tracking.uri)
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    shown = json.loads(json.loads(tags["mlflow.sharedViewState.results"])["state"])
    assert client.search_runs([run.info.experiment_id], shown["searchFilter"])
    assert {*shown["selectedColumns"], "attributes.`Run Name`"} == {*shown["columnOrder"]}
    assert json.loads(json.loads(tags["mlflow.sharedViewState.cost"])["state"])["orderByAsc"]
    link = f"[Gain beside control](#/experiments/{run.info.experiment_id}/runs?workflowType=machine"
    assert link in tags["mlflow.note.content"]
