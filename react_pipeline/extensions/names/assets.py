"""The check of names in captions, for Dagster."""

import dagster as dg

from react_pipeline.assets import artifact_check, unmeasured
from react_pipeline.extensions.names.name_counts import unnamed_message
from react_pipeline.project import Project
from react_pipeline.store import Artifact


@artifact_check("retrieved_set")
def classes_are_named(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A class that no caption names, such as a misspelt one, is trained on images of something
    else.
    """
    if "unnamed" not in artifact.counts:
        return unmeasured("the corpus has no captions, or they were not searched")
    unnamed = artifact.counts["unnamed"]
    return dg.AssetCheckResult(
        passed=not unnamed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"unnamed": len(unnamed)},
        description=unnamed_message(unnamed) if unnamed else "captions name every class",
    )
