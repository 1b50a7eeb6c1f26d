"""The assets of detection and segmentation, for Dagster: their checks.

Does not belong here: repairing anything.
"""

import json

import dagster as dg
import pandas as pd

from react_pipeline.assets import artifact_check
from react_pipeline.extensions.elevater import contradictions
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
    """Data that are not there never count as 0, and a figure is a fraction."""
    wrong = contradictions(pd.read_parquet(artifact.file("results.parquet")))
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"wrong": wrong},
        description=f"{wrong} rows contradict themselves; missing: "
        f"{artifact.counts['not_measured'] or 'none'}",
    )


def wrong_detections(artifact: Artifact) -> int:
    """Count detections whose score is not a fraction, or whose box has no area or is not in its
    image.
    """
    sizes = pd.read_parquet(artifact.file("images.parquet")).set_index(["set", "image_id"])
    wrong = 0
    for name in artifact.manifest["files"]:
        if not name.startswith("detections/"):
            continue
        of_set = sizes.loc[name.removeprefix("detections/").split("--")[0]].to_dict("index")
        for box in json.loads(artifact.file(name).read_bytes()):
            left, top, width, height = box["bbox"]
            image = of_set[box["image_id"]]
            # Boxes are written with two decimals.
            right, bottom = (image["width"] + 0.02 - width, image["height"] + 0.02 - height)
            inside = -0.01 <= left <= right and -0.01 <= top <= bottom
            wrong += not (inside and width > 0 and height > 0 and 0 <= box["score"] <= 1)
    return wrong
