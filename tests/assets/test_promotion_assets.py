"""The asset `promotion` and its check."""

from __future__ import annotations

import dagster as dg
from support.launch import code_location
from support.upkeep import change_pipeline

from react_pipeline.project.project import Project


def test_a_verdict_is_shown_and_checked_though_mlflow_is_down(measured_project: Project) -> None:
    location = code_location(change_pipeline(measured_project, tracking_uri="http://127.0.0.1:9"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domains", ["shapes"])
        done = location.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("promotion")], partition_key="shapes"
        )
    (event,) = done.get_asset_materialization_events()
    shown = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (shown["decision"], shown["champion"]) == ("promoted", "gated-image")
    assert "gated-image" in shown["table"] and "unavailable" in shown["mlflow"]
    (check,) = done.get_asset_check_evaluations()
    assert check.passed and not check.blocking
