"""Reporting: how the body of an asset runs, and what it reports to Dagster.

Belongs here: reuse of what is fresh. Does not belong here: which failures are tried again
(`retries`), what the metadata look like (`metadata`).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dagster as dg

from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.metadata import describe, loss_line
from react_pipeline.assets.partitions import library_key
from react_pipeline.assets.resources import Context, find_project
from react_pipeline.assets.retries import classify_error, readable_failures
from react_pipeline.assets.runs import inputs_tag
from react_pipeline.failures import await_checks, expect_checks, remembered
from react_pipeline.lineage import fresh_or_none, run
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import Artifact, CorruptArtifact
from react_pipeline.tracking import Tracking

DATA_VERSION_TAG = "dagster/data_version"


def publish(context: Context, step: Callable[..., Artifact] | None = None) -> dg.MaterializeResult:
    """Run one step of the library for this partition, log its artifact to MLflow, and describe it.

    Args:
        step: In place of the one that the row of the stage names; called with the project and the
            parts of the key.

    Raises:
        dagster.Failure: With the text of the error, if trying again is useless.
    """
    project, key = find_project(context), library_key(context)
    stage = STAGES[context.asset_key.path[-1]]
    with readable_failures():
        started = time.monotonic()
        pipeline = project.load()
        name = stage.name if stage.scope == "all" else f"{stage.name} {key}"
        inputs = context.run.tags.get(inputs_tag(project), "")
        if checks := blocking_checks(stage.name):
            expect_checks(pipeline, (stage.name, key))
        with remembered(pipeline, (stage.name, key), inputs, classify_error):
            artifact = None
            # Spares a run that has nothing to do the seconds in which a step imports torch. Where a
            # stage looks at more than the artifacts before it, only running it shows whether it is
            # fresh.
            if stage.outside is None and not stage.gathers:
                with suppress(CorruptArtifact):
                    artifact = fresh_or_none(pipeline, stage.name, key)
            if artifact is None:
                context.log.info(f"{name} ...")
                artifact = run(pipeline, stage.name, key, step)
        await_checks(pipeline, artifact, checks)
        made = "as before" if artifact.reused else "built"
        context.log.info(f"{name}: {made}, {time.monotonic() - started:.1f} s{loss_line(artifact)}")
        return dg.MaterializeResult(
            metadata=describe(artifact, _logged(pipeline, artifact, context.run.run_id)),
            data_version=dg.DataVersion(artifact.fingerprint),
        )


def _logged(project: Project, artifact: Artifact, run_id: str) -> dict[str, Any]:
    """Log an artifact, which never fails the step; returns the metadata that leads to its MLflow
    run.
    """
    tracking = Tracking(project)
    logged = tracking.log_artifact(artifact, run_id)
    if logged is None:
        return {"mlflow": "tracking unavailable, will be logged at the next run"}
    url = tracking.url(logged)
    page = (
        dg.MetadataValue.url(url)
        if url
        else "set `mlflow_url` for a link, or open it with `react-pipeline ui`"
    )
    return {"mlflow": page, "mlflow_run_id": logged}
