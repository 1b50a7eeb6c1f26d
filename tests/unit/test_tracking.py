from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support_tracking import STEPS, artifact_of, make_template, runs_of, tracking_at

from react_pipeline.lineage import Project
from react_pipeline.tracked_values import flatten, metrics_of, params_of
from react_pipeline.tracking import Tracking


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow") / "template.db")


@pytest.fixture
def tracking(template: Path, tmp_path: Path) -> Tracking:
    return tracking_at(template, tmp_path)


def test_artifact_becomes_a_finished_run_below_the_run_of_its_domain(tracking: Tracking, tiny_project: Project) -> None:
    retrieved = artifact_of(tiny_project, "retrieved_set", "shapes")
    checkpoint = artifact_of(
        tiny_project, "customized_checkpoint", "shapes/gated-image", parents={"retrieved_set": retrieved}
    )
    ids = [tracking.log_artifact(tiny_project, artifact, "dagster-1") for artifact in (retrieved, checkpoint)]
    (parent,) = runs_of(tracking, **{"react.parent": "shapes"})
    (run,) = runs_of(tracking, fingerprint=checkpoint.fingerprint)
    assert run.info.run_id == ids[1]
    assert run.info.status == parent.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    expected = {
        "asset": "customized_checkpoint",
        "domain": "shapes",
        "method": "gated-image",
        "dagster.run_id": "dagster-1",
        "parents": json.dumps({"retrieved_set": retrieved.fingerprint}),
    }
    assert expected.items() <= run.data.tags.items()


def test_config_counts_and_losses_are_params_and_metrics_with_steps(tracking: Tracking, tiny_project: Project) -> None:
    checkpoint = artifact_of(tiny_project, "customized_checkpoint", "shapes/full")
    run_id = tracking.log_artifact(tiny_project, checkpoint)
    assert run_id
    client = MlflowClient(tracking.uri)
    run = client.get_run(run_id)
    assert run.data.params == {"seed": "0", "training.steps": str(STEPS), "training.modes": '["t2t", "t2i"]'}
    assert {"pairs": 7, "seconds": 1.5, "dropped.cap": 2}.items() <= run.data.metrics.items()
    history = client.get_metric_history(run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (1 + step)) for step in range(STEPS)]
    assert {"table.csv", "manifest.json"} <= {file.path for file in client.list_artifacts(run_id)}


def test_logging_again_finds_the_run_and_adds_nothing(tracking: Tracking, tiny_project: Project) -> None:
    checkpoint = artifact_of(tiny_project, "customized_checkpoint", "shapes/gated-image")
    first = tracking.log_artifact(tiny_project, checkpoint, "dagster-1")
    assert tracking.log_artifact(tiny_project, checkpoint, "dagster-2") == first
    assert len(runs_of(tracking, fingerprint=checkpoint.fingerprint)) == 1
    assert len(MlflowClient(tracking.uri).search_model_versions("name = 'react-shapes'")) == 1
    assert tracking.count_pending(tiny_project) == 0


def test_checkpoints_are_registered_without_pickle_and_the_headline_is_challenger(
    tracking: Tracking, tiny_project: Project, tmp_path: Path
) -> None:
    for method in ("gated-image", "full"):
        checkpoint = artifact_of(tiny_project, "customized_checkpoint", f"shapes/{method}")
        tracking.log_artifact(tiny_project, checkpoint)
    newer = artifact_of(tiny_project, "customized_checkpoint", "shapes/gated-image", seed=1)
    tracking.log_artifact(tiny_project, newer)
    client = MlflowClient(tracking.uri)
    versions = client.search_model_versions("name = 'react-shapes'")
    assert sorted(version.tags["method"] for version in versions) == ["full", "gated-image", "gated-image"]
    challenger = client.get_model_version_by_alias("react-shapes", "challenger")
    assert challenger.tags["fingerprint"] == newer.fingerprint
    assert challenger.tags["path"] == str(newer.path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".pth", ".pt"}]


def test_sets_are_data_sets_whose_digest_is_the_fingerprint(tracking: Tracking, tiny_project: Project) -> None:
    retrieved = artifact_of(tiny_project, "retrieved_set", "shapes")
    checkpoint = artifact_of(tiny_project, "customized_checkpoint", "shapes/full", parents={"retrieved_set": retrieved})
    tracking.log_artifact(tiny_project, retrieved)
    tracking.log_artifact(tiny_project, checkpoint)
    for artifact in (retrieved, checkpoint):
        (run,) = runs_of(tracking, fingerprint=artifact.fingerprint)
        (entry,) = run.inputs.dataset_inputs
        assert entry.dataset.digest == retrieved.fingerprint
        assert json.loads(entry.dataset.source)["uri"] == str(retrieved.path)


def test_artifacts_of_no_domain_lie_below_the_run_of_the_corpus(tracking: Tracking, tiny_project: Project) -> None:
    artifact = artifact_of(tiny_project, "faiss_index", "all")
    tracking.log_artifact(tiny_project, artifact)
    (run,) = runs_of(tracking, fingerprint=artifact.fingerprint)
    (parent,) = runs_of(tracking, **{"react.parent": "corpus"})
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "domain" not in run.data.tags


def test_addresses_are_given_only_where_a_browser_can_go(tracking: Tracking) -> None:
    assert tracking.url("abc") is None
    assert Tracking("http://127.0.0.1:1", "tiny").url("abc") == "http://127.0.0.1:1/#/experiments/0/runs/abc"


def test_names_hold_only_letters_that_mlflow_allows() -> None:
    assert dict(flatten({"recall@10": {"a b/c": 1}})) == {"recall_10.a_b_c": 1}


def test_values_that_are_not_finite_are_left_out_and_long_texts_cut(tiny_project: Project) -> None:
    from react_pipeline.artifacts import Artifact

    counts = {"a": float("inf"), "b": True, "c": 2}
    created = "1970-01-01T00:00:01+00:00"
    manifest = {"counts": counts, "files": {}, "config": {"classes": ["x" * 9_000]}, "created": created}
    artifact = Artifact(tiny_project.config.store, manifest)
    assert list(metrics_of(artifact)) == [("c", 2.0, 0, 1_000)]
    assert len(params_of(artifact)["classes"]) == 500
