"""The assets of the benchmark, for Dagster: their checks.

Does not belong here: repairing anything.
"""

from collections.abc import Iterator

import dagster as dg
import numpy as np
import pandas as pd

from react_pipeline.assets import (
    artifact_check,
    unmeasured,
    warning_below,
)
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact

from .features import digests_of_test_images
from .protocols import contradictions
from .results import MEAN, compare_summaries


@artifact_check("benchmark_features", blocking=True)
def features_are_finite_and_have_a_direction(
    project: Project, artifact: Artifact
) -> dg.AssetCheckResult:
    """Features are kept as the tower gives them, so their length is not 1; but it is made 1, which
    0 cannot be.
    """
    bad = {name: count for name, count in bad_features(artifact) if count}
    return dg.AssetCheckResult(
        passed=not bad,
        metadata={"bad": sum(bad.values())},
        description=f"bad features: {bad or 'none'}",
    )


@artifact_check("benchmark_results", blocking=True)
def what_is_unavailable_has_no_value(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Missing data must never count as a score of zero, nor a figure exist without images."""
    wrong = contradictions(pd.read_parquet(artifact.file("results.parquet")))
    counts = artifact.counts
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"wrong": wrong, "datasets_evaluated": counts["datasets_evaluated"]},
        description=f"{wrong} rows contradict themselves; {counts['datasets_evaluated']} of "
        f"{counts['of']} data sets were measured",
    )


@artifact_check("benchmark_results")
def benchmark_mean_is_at_least_base(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Zero-shot, on the data sets that both were measured on: customization should not cost on
    average.
    """
    slug, method = artifact.key.split("/")
    base = fresh_or_none(project, "benchmark_results", method_key(slug, "base"))
    if base is None:
        return unmeasured("the base has no fresh result")
    mine, theirs = (pd.read_parquet(result.file("summary.parquet")) for result in (artifact, base))
    table = compare_summaries(theirs, {method: mine})
    mean = table[(table["dataset"] == MEAN) & (table["figure"] == "zero-shot")].iloc[0]
    if np.isnan(mean["delta"]):
        return unmeasured("no data set was measured of both")
    about = f"zero-shot mean over {mean['status']}, less the base's"
    return warning_below(float(mean["delta"]), about, tolerance=1e-9)


@artifact_check("benchmark_results")
def training_pairs_hold_no_test_image(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A test image among the training pairs makes its data set's figure worthless; near duplicates
    are not seen.
    """
    slug, method = artifact.key.split("/")
    if method == "base":
        return unmeasured("nothing was trained")
    stage = "control_set" if method.endswith(CONTROL_SUFFIX) else "retrieved_set"
    pairs = fresh_or_none(project, stage, slug)
    if pairs is None:
        return unmeasured(f"`{stage}` of {slug!r} is missing or stale; rematerialize it")
    features = project.store.current("benchmark_features", artifact.key)
    tests = digests_of_test_images(features)
    if not tests:
        return unmeasured("no test image was encoded: no data set is there")
    leaked = count_pairs(pairs, tests)
    return dg.AssetCheckResult(
        passed=leaked == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"leaked": leaked, "pairs": pairs.counts["pairs"]},
        description=f"{leaked} of {pairs.counts['pairs']} training pairs are test images of the "
        "benchmark",
    )


def count_pairs(pairs: Artifact, digests: set[str]) -> int:
    """Return how many pairs have one of these image files, byte for byte."""
    tables = [name for name in pairs.manifest["files"] if name.endswith("pairs.parquet")]
    columns = (pd.read_parquet(pairs.file(name), columns=["image_sha256"]) for name in tables)
    return sum(int(table["image_sha256"].isin(digests).sum()) for table in columns)


def bad_features(artifact: Artifact) -> Iterator[tuple[str, int]]:
    """Yield for each array of features how many rows are not finite or zero."""
    for name in artifact.manifest["files"]:
        if name.endswith(".npy") and not name.endswith(("_labels.npy", "_sha256.npy")):
            features = np.load(artifact.file(name), mmap_mode="r", allow_pickle=False)
            squares = np.einsum("nd,nd->n", features, features)
            # A NaN compares as false, so it counts as bad.
            yield name, int((~((squares > 0) & np.isfinite(squares))).sum())
