"""The asset `promotion` and its check."""

from __future__ import annotations

import dagster as dg
from mlflow import MlflowClient
from support.launch import code_location
from support.upkeep import change_pipeline

from react_pipeline.project.project import Project
from react_pipeline.tracking.log import Tracking

GATED = "gated-image"


def materialize(project: Project, uri: str) -> dg.ExecuteInProcessResult:
    location = code_location(change_pipeline(project, tracking_uri=uri))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domains", ["shapes"])
        return location.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("promotion")], partition_key="shapes"
        )


def test_verdict_is_shown_checked_and_applied(
    tracking: Tracking, measured_project: Project
) -> None:
    uri, project = tracking.uri, measured_project
    done = materialize(project, uri)
    (event,) = done.get_asset_materialization_events()
    shown = {name: value.value for name, value in event.materialization.metadata.items()}
    assert shown["decision"] == "promoted" and shown["champion"] == GATED
    assert "gated-image" in shown["table"]
    (check,) = done.get_asset_check_evaluations()
    assert check.passed and not check.blocking
    client, alias = MlflowClient(uri, uri), ("react-shapes", "champion")
    assert client.get_model_version_by_alias(*alias).tags["method"] == GATED

    client.delete_registered_model_alias(*alias)
    materialize(project, uri)
    assert client.get_model_version_by_alias(*alias).tags["method"] == GATED


def test_mlflow_down_costs_no_verdict(measured_project: Project) -> None:
    done = materialize(measured_project, "http://127.0.0.1:9")
    (event,) = done.get_asset_materialization_events()
    assert "unavailable" in event.materialization.metadata["mlflow"].value
