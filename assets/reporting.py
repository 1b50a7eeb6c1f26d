"""Reporting: how the body of an asset or a check runs, and what an asset tells Dagster.

Belongs here: which failures are tried again, and reuse of what is fresh. Does not belong here: what the metadata look
like (`metadata`).
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.metadata import describe
from assets.partitions import key_of
from assets.resources import ProjectResource, TrackingResource
from react_pipeline.artifacts import Artifact, canonical_json
from react_pipeline.errors import CorruptArtifact, ReactError, SourceUnavailable, StoreWriteError
from react_pipeline.lineage import ALL, STAGES, Project, fresh_or_none
from react_pipeline.outside import full_glance
from react_pipeline.workload import announce

TRANSIENT = (OSError, SourceUnavailable, StoreWriteError)
"""Faults that may be gone a little later: the network, a full disk. Everything else fails the same way again."""

RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""How a step is tried again; delay in seconds."""

SEEN_TAG = "react/seen"
"""On a materialization: `seen` at the time when its step began."""

INTERRUPTED = "interrupted"
"""All that is said of a step that was cancelled, from the UI or by Ctrl-C."""

READS_OUTSIDE = (
    *("corpus", "base_checkpoint", "evaluation_set", "comparison", "promotion", "overview"),
    *("benchmark_features", "benchmark_comparison"),
)
"""Stages that look at more than the artifacts before them, so that only running them tells whether they are fresh."""


def about(stage: str, *kinds: str) -> dict[str, Any]:
    """What every asset declares alike."""
    return {
        "kinds": set(kinds),
        "owners": ["team:react"],
        "code_version": STAGES[stage].code_version,
        "retry_policy": RETRIES,
    }


def check(asset: dg.AssetsDefinition, **options: Any) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """A decorator as `dagster.asset_check`, of a check that fails and is tried again as the body of an asset is."""

    def declared(body: Callable[..., Any]) -> dg.AssetChecksDefinition:
        return dg.asset_check(asset=asset, retry_policy=RETRIES, **options)(readable_failures()(body))

    return declared


def publish(
    context: dg.AssetExecutionContext,
    project: ProjectResource,
    tracking: TrackingResource,
    step: Callable[..., Artifact],
) -> dg.MaterializeResult:
    """Run one step of the library for this partition, log its artifact to MLflow, and describe it.

    Raises:
        dagster.Failure: With the text of the error, if trying again is useless.
    """
    stage, key = context.asset_key.path[-1], key_of(context)
    with readable_failures():
        started, pipeline = time.monotonic(), project.load()
        before = seen(pipeline, stage, "/".join(key) or ALL)
        artifact, name = _fresh(pipeline, stage, key), " ".join((stage, "/".join(key))).strip()
        if artifact is None:
            amount = announce(pipeline, stage, "/".join(key) or ALL)
            context.log.info(f"{name} ..." + (f" {amount}" if amount else ""))
            artifact = step(pipeline, *key)
        made = "as before" if artifact.reused else "built"
        context.log.info(f"{name}: {made}, {time.monotonic() - started:.1f} s")
        tracked = tracking.log(pipeline, artifact, context.run.run_id)
        return dg.MaterializeResult(
            metadata={**describe(artifact), **tracked},
            data_version=dg.DataVersion(artifact.fingerprint),
            tags={SEEN_TAG: before} if before else None,
        )


def seen(project: Project, stage: str, key: str) -> str:
    """A digest of all that is no input of the artifact and yet calls for a run when it changes.

    The user's files by name, size and time, what the stage's checks judge by, and where MLflow is. Empty where only
    running the step can say whether the files have changed.
    """
    files = full_glance(project, stage, key)
    if files is None:
        return ""
    judged: dict[str, Any] = {}
    if stage == "faiss_index":
        judged = project.config.index.model_dump(mode="json")
    elif stage == "retrieved_set":
        judged = project.retrieval(key).model_dump(mode="json")
    where = [project.config.tracking_uri, project.config.project]
    return hashlib.sha256(canonical_json([files, judged, where]).encode()).hexdigest()[:16]


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn errors into failures that show their text and are tried again only if that may help."""
    try:
        yield
    except TRANSIENT:
        raise
    except ReactError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except dg.Failure:
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
        # Dagster would try the step again: its retry policy holds for interruptions too.
        raise dg.Failure(INTERRUPTED, allow_retries=False) from error
    except Exception as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


def _fresh(pipeline: Project, stage: str, key: tuple[str, ...]) -> Artifact | None:
    # Spares a run that has nothing to do the seconds in which a step imports torch.
    if stage in READS_OUTSIDE:
        return None
    try:
        return fresh_or_none(pipeline, stage, "/".join(key) or ALL)
    except CorruptArtifact:
        return None
