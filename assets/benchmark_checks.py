"""Checks of the assets of the benchmark, of detection and of segmentation; see `checks`.

Belongs here: assertions on published files alone. Does not belong here: repairing anything.
"""

import json
from collections.abc import Iterator

import dagster as dg
import numpy as np
import pandas as pd

from react_pipeline.assets.checks import unmeasured, warning_below
from react_pipeline.assets.declared import check
from react_pipeline.assets.partitions import key_of
from react_pipeline.assets.resources import CheckContext, ProjectParam
from react_pipeline.benchmark import MEAN, compare_summaries, digests_of_test_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact

CHUNK_ROWS = 65_536


@check("benchmark_features", blocking=True)
def features_are_finite_and_have_a_direction(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """Features are kept as the tower gives them, so their length is not 1; but it is made 1, which
    0 cannot be.
    """
    artifact = project.load().store.current("benchmark_features", key_of(context))
    bad = {name: count for name, count in bad_features(artifact) if count}
    return dg.AssetCheckResult(
        passed=not bad,
        metadata={"bad": sum(bad.values())},
        description=f"bad features: {bad or 'none'}",
    )


@check("benchmark_results", blocking=True)
def what_is_unavailable_has_no_value(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """Missing data must never count as a score of zero, nor a figure exist without images."""
    artifact = project.load().store.current("benchmark_results", key_of(context))
    wrong = contradictions(pd.read_parquet(artifact.file("results.parquet")))
    counts = artifact.counts
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"wrong": wrong, "datasets_evaluated": counts["datasets_evaluated"]},
        description=f"{wrong} rows contradict themselves; {counts['datasets_evaluated']} of "
        f"{counts['of']} data sets were measured",
    )


@check("benchmark_results")
def benchmark_mean_is_at_least_base(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """Zero-shot, on the data sets that both were measured on: customization should not cost on
    average.
    """
    pipeline, key = project.load(), key_of(context)
    slug, method = key.split("/")
    base = fresh_or_none(pipeline, "benchmark_results", method_key(slug, "base"))
    mine = pipeline.store.current("benchmark_results", key)
    if base is None:
        return unmeasured("the base has no fresh result")
    summaries = [pd.read_parquet(artifact.file("summary.parquet")) for artifact in (base, mine)]
    table = compare_summaries(summaries[0], {method: summaries[1]})
    mean = table[(table["dataset"] == MEAN) & (table["figure"] == "zero-shot")].iloc[0]
    delta = float(mean["delta"])
    if np.isnan(delta):
        return unmeasured("no data set was measured of both")
    return warning_below(
        delta, f"zero-shot mean over {mean['status']}, less the base's", tolerance=1e-9
    )


@check("benchmark_results")
def training_pairs_hold_no_test_image(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """A test image among the training pairs makes its data set's figure worthless; near duplicates
    are not seen.
    """
    return look_for_test_images(project.load(), *key_of(context).split("/"))


def look_for_test_images(project: Project, slug: str, method: str) -> dg.AssetCheckResult:
    """The result of `training_pairs_hold_no_test_image`; unmeasured where there is nothing to look
    for or in.
    """
    if method == "base":
        return unmeasured("nothing was trained")
    stage = "control_set" if method.endswith(CONTROL_SUFFIX) else "retrieved_set"
    pairs = fresh_or_none(project, stage, slug)
    if pairs is None:
        return unmeasured(f"`{stage}` of {slug!r} is missing or stale; rematerialize it")
    features = project.store.current("benchmark_features", method_key(slug, method))
    if not digests_of_test_images(features):
        return unmeasured("no test image was encoded: no data set is there")
    leaked = count_test_images(pairs, features)
    return dg.AssetCheckResult(
        passed=leaked == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"leaked": leaked, "pairs": pairs.counts["pairs"]},
        description=f"{leaked} of {pairs.counts['pairs']} training pairs are test images of the "
        "benchmark",
    )


def count_test_images(pairs: Artifact, features: Artifact) -> int:
    """Pairs whose image is a test image of the benchmark, byte for byte."""
    digests = pd.read_parquet(pairs.file("pairs.parquet"), columns=["image_sha256"])["image_sha256"]
    return int(digests.isin(digests_of_test_images(features)).sum())


def bad_features(artifact: Artifact) -> Iterator[tuple[str, int]]:
    """For each array of features how many rows are not finite or zero; few rows are in memory at a
    time.
    """
    for name in artifact.manifest["files"]:
        if name.endswith(".npy") and not name.endswith(("_labels.npy", "_sha256.npy")):
            features = np.load(artifact.file(name), mmap_mode="r", allow_pickle=False)
            parts = (
                features[start : start + CHUNK_ROWS]
                for start in range(0, len(features), CHUNK_ROWS)
            )
            norms = [np.linalg.norm(part, axis=1) for part in parts]
            # A NaN compares as false, so it counts as bad.
            yield name, int(sum((~((norm > 0) & np.isfinite(norm))).sum() for norm in norms))


def contradictions(rows: pd.DataFrame) -> int:
    """Rows with both a value and a reason or neither, with a value of no image or one that is not a
    fraction.
    """
    has_value, has_reason = rows["value"].notna(), rows["unavailable"].notna()
    no_images = has_value & (rows["n"] == 0)
    no_fraction = has_value & ~rows["value"].between(0, 1)
    return int(((has_value == has_reason) | no_images | no_fraction).sum())


@check("dense_results", blocking=True)
def detections_are_finite_and_in_their_images(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """A score that is not finite comes from such features; a box outside its image from another
    set's images.
    """
    wrong = wrong_detections(project.load().store.current("dense_results", key_of(context)))
    return dg.AssetCheckResult(
        passed=wrong == 0, metadata={"wrong": wrong}, description=f"{wrong} wrong detections"
    )


@check("dense_results", blocking=True)
def what_was_not_measured_has_no_value(
    context: CheckContext, project: ProjectParam
) -> dg.AssetCheckResult:
    """Every class of a figure belongs to its set by name, and data that are not there never count
    as 0.
    """
    artifact = project.load().store.current("dense_results", key_of(context))
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
        found = pd.DataFrame(json.loads(artifact.file(name).read_text(encoding="utf-8")))
        if found.empty:
            continue
        of_set = sizes[sizes["set"] == name.removeprefix("detections/").split("--")[0]]
        joined = found.merge(of_set, on="image_id", how="left")
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
