"""The assets of detection and segmentation, for Dagster: their checks.

Does not belong here: repairing anything.
"""

import json

import dagster as dg
import numpy as np
import pandas as pd

from react_pipeline.assets import artifact_check
from react_pipeline.project import Project
from react_pipeline.store import Artifact


@artifact_check("dense_results", blocking=True)
def detections_are_finite_and_in_their_images(
    project: Project, artifact: Artifact
) -> dg.AssetCheckResult:
    """A score that is not finite comes from such features; a box outside its image from another
    set's images.
    """
    wrong = wrong_detections(artifact)
    return dg.AssetCheckResult(
        passed=wrong == 0, metadata={"wrong": wrong}, description=f"{wrong} wrong detections"
    )


@artifact_check("dense_results", blocking=True)
def what_was_not_measured_has_no_value(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Every class of a figure belongs to its set by name, and data that are not there never count
    as 0.
    """
    wrong = dense_contradictions(artifact)
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"wrong": wrong},
        description=f"{wrong} rows contradict themselves; missing: "
        f"{artifact.counts['not_measured'] or 'none'}",
    )


def wrong_detections(artifact: Artifact) -> int:
    """Detections whose score is not a fraction, or whose box has no area or is not in its image."""
    files = [name for name in artifact.manifest["files"] if name.startswith("detections/")]
    sizes = pd.read_parquet(artifact.file("images.parquet"))
    wrong = 0
    for name in files:
        detections = pd.DataFrame(json.loads(artifact.file(name).read_bytes()))
        if detections.empty:
            continue
        of_set = sizes[sizes["set"] == name.removeprefix("detections/").split("--")[0]]
        joined = detections.merge(of_set, on="image_id", how="left")
        left, top, width, height = np.array(joined["bbox"].tolist(), float).T
        inside = (left >= -0.01) & (top >= -0.01) & (width > 0) & (height > 0)
        # Boxes are written with two decimals.
        inside &= (left + width <= joined["width"] + 0.02) & (
            top + height <= joined["height"] + 0.02
        )
        wrong += int((~(inside & joined["score"].between(0, 1))).sum())
    return wrong


def dense_contradictions(artifact: Artifact) -> int:
    """Rows with a value and a reason, or with neither; figures that are no fraction; classes of no
    measured set.
    """
    rows = pd.read_parquet(artifact.file("results.parquet"))
    classes = pd.read_parquet(artifact.file("per_class.parquet"))
    measured = rows[rows["value"].notna()]
    fractions = measured[measured["figure"] != "classes"]["value"]
    places = set(zip(measured["set"], measured["source"], strict=True))
    strangers = [
        place
        for place in zip(classes["set"], classes["source"], strict=True)
        if place not in places
    ]
    both = (rows["value"].notna() == rows["unavailable"].notna()).sum()
    return int(both + (~fractions.between(0, 1)).sum() + len(strangers))
