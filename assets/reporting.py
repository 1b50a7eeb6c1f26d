"""Reporting: how the body of an asset or a check runs, and what an asset reports to Dagster.

Belongs here: which failures are tried again, and reuse of what is fresh. Does not belong here: what
the metadata look like (`metadata`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from react_pipeline.assets.metadata import describe, loss_line
from react_pipeline.assets.partitions import key_of
from react_pipeline.assets.resources import Context, ProjectResource
from react_pipeline.lineage import fresh_or_none, run
from react_pipeline.project import Project
from react_pipeline.stage import PROMOTION, STAGES, Stage
from react_pipeline.stop import requested
from react_pipeline.store import (
    NOT_WRITABLE,
    Artifact,
    CorruptArtifact,
    ReactError,
    SourceUnavailable,
    StoreWriteError,
    digest_of,
    refusal_in,
)
from react_pipeline.tracking import Tracking

TRANSIENT = (OSError, SourceUnavailable, StoreWriteError)
"""Transient faults: the network, a full disk. Everything else fails the same way again."""

RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""How a step is tried again; delay in seconds."""

DATA_VERSION_TAG = "dagster/data_version"
CHECKED_TAG = "react/checked_by"
"""Tag of a materialization that holds `checked_by` of its run."""

INTERRUPTED = "interrupted"
"""The message of a step that was cancelled, from the UI or by Ctrl-C."""


def publish(
    context: Context,
    project: ProjectResource,
    step: Callable[..., Artifact] | None = None,
) -> dg.MaterializeResult:
    """Run one step of the library for this partition, log its artifact to MLflow, and describe it.

    Args:
        step: In place of the one that the row of the stage names; called with the project and the
            parts of the key.

    Raises:
        dagster.Failure: With the text of the error, if trying again is useless.
    """
    stage = STAGES[context.asset_key.path[-1]]
    key = key_of(context)
    with readable_failures():
        started = time.monotonic()
        pipeline = project.load()
        name = stage.name if stage.scope == "all" else f"{stage.name} {key}"
        artifact = _fresh(pipeline, stage, key)
        if artifact is None:
            context.log.info(f"{name} ...")
            artifact = run(pipeline, stage.name, key, step)
        made = "as before" if artifact.reused else "built"
        context.log.info(f"{name}: {made}, {time.monotonic() - started:.1f} s{loss_line(artifact)}")
        return dg.MaterializeResult(
            metadata=describe(artifact, _logged(pipeline, artifact, context.run.run_id)),
            data_version=dg.DataVersion(artifact.fingerprint),
            tags={CHECKED_TAG: checked_by(pipeline, stage, key)},
        )


def checked_by(project: Project, stage: Stage, key: str) -> str:
    """A digest of what requires a run if it changes and is not an input: thresholds of checks, and
    where MLflow is.
    """
    return digest_of(
        [stage.thresholds(project, key), project.config.tracking_uri, project.config.project]
    )


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn errors into failures that show their text and are retried only if that may help."""
    try:
        with _as_interrupted():
            yield
    except TRANSIENT as error:
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            raise dg.Failure(refusal_in(error), allow_retries=False) from error
        raise
    except ReactError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except dg.Failure:
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
        # Dagster would try the step again: its retry policy holds for interruptions too.
        raise dg.Failure(INTERRUPTED, allow_retries=False) from error
    except Exception as error:
        text = refusal_in(error) or f"{type(error).__name__}: {error}"
        raise dg.Failure(text, allow_retries=False) from error


@contextmanager
def _as_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt for an error that replaced the exception of a stop, such as one of
    C++.
    """
    try:
        yield
    except Exception as error:
        if requested():
            raise KeyboardInterrupt from error
        raise


def _logged(project: Project, artifact: Artifact, run_id: str) -> dict[str, dg.MetadataValue]:
    """Log an artifact, which never fails the step; returns the metadata that leads to its MLflow
    run.
    """
    tracking = Tracking.of(project)
    logged = tracking.log_artifact(project, artifact, run_id)
    shown: dict[str, dg.MetadataValue] = {}
    if artifact.stage == PROMOTION:
        state = "updated" if logged else "the verdict waits for MLflow until the next run"
        shown["registry"] = dg.MetadataValue.text(state)
    if logged is None:
        problem = "tracking unavailable, will be logged at the next run"
        return {**shown, "mlflow": dg.MetadataValue.text(problem)}
    url = tracking.runs.url(logged)
    shown["mlflow"] = dg.MetadataValue.text("open it with `react-pipeline ui`")
    if url:
        shown["mlflow"] = dg.MetadataValue.url(url)
    shown["mlflow_run_id"] = dg.MetadataValue.text(logged)
    return shown


def _fresh(pipeline: Project, stage: Stage, key: str) -> Artifact | None:
    # Spares a run that has nothing to do the seconds in which a step imports torch. Where a stage
    # looks at more than the artifacts before it, only running it shows whether it is fresh.
    if stage.outside is not None or stage.gathers:
        return None
    try:
        return fresh_or_none(pipeline, stage.name, key)
    except CorruptArtifact:
        return None
