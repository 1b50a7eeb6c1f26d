"""Checks: what must hold for an artifact before anything is built on it.

Belongs here: the assertions, each on published files alone. A blocking check that fails ends the
run before the next asset; one that warns shows up in the UI and blocks nothing. Does not belong
here: repairing anything.
"""

import json
import math
from pathlib import Path

import dagster as dg
import numpy as np

from react_pipeline.assets.declared import artifact_check
from react_pipeline.embedding import FOLDERS, bad_rows, vector_files
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.retrieval import leaked_images
from react_pipeline.settings import CONTROL_SUFFIX, trained_methods
from react_pipeline.stage import ALL, domain_and_method, method_key
from react_pipeline.store import Artifact

CHUNK_ROWS = 65_536
"""Rows that are read at once: a file of ready embeddings may be larger than memory."""


@artifact_check("corpus_embeddings", blocking=True)
def vectors_are_finite_and_unit_norm(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A NaN row is never found by FAISS and a zero row is similar to nothing, both without an
    error.
    """
    bad = {
        FOLDERS[side]: sum(map(count_bad_vectors, vector_files(artifact, side))) for side in FOLDERS
    }
    return dg.AssetCheckResult(
        passed=not any(bad.values()), metadata=bad, description=f"bad vectors: {bad}"
    )


@artifact_check("faiss_index", blocking=True)
def index_holds_every_row(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """The row numbers of the index are those of the metadata, so neither may have more."""
    indexed = artifact.counts["rows"]
    rows = project.store.current("corpus_embeddings", ALL).counts["rows"]
    return dg.AssetCheckResult(
        passed=indexed == rows,
        metadata={"indexed": indexed, "rows": rows},
        description=f"{indexed} rows indexed of {rows}",
    )


@artifact_check("faiss_index", blocking=True)
def recall_is_sufficient(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Of the 10, and of the 100, nearest that an exact search finds, the index must find enough."""
    counts = artifact.counts
    config = project.config.index
    recalls = {}
    lines = []
    enough = True
    for depth, least in ((10, config.min_recall), (100, config.min_recall_100)):
        recall = counts[f"recall_at_{depth}"]
        lines.append(f"recall@{depth} {recall}, at least {least}")
        for side, value in recall.items():
            recalls[f"{side}_at_{depth}"] = value
            enough = enough and value >= least
    return dg.AssetCheckResult(
        passed=enough,
        metadata={**recalls, "key": counts["key"], "reason": counts["reason"]},
        description=f"{', '.join(lines)}; a higher `index.target_recall` or another `index.key` "
        "finds more",
    )


@artifact_check("retrieved_set", blocking=True)
def classes_have_pairs(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A class with hardly any pair is not learned; too many of these and nothing is trained."""
    settings = project.retrieval(artifact.key)
    starving = artifact.counts["starving"]
    fraction = artifact.counts["starving_fraction"]
    return dg.AssetCheckResult(
        passed=fraction <= settings.max_starving_fraction,
        metadata={"starving": len(starving), "starving_fraction": fraction},
        description=f"{len(starving)} classes have fewer than {settings.min_per_class} pairs: "
        f"{', '.join(starving[:20]) or 'none'} (allowed: {settings.max_starving_fraction:.0%} of "
        "the classes)",
    )


@artifact_check("retrieved_set", blocking=True)
def retrieved_set_holds_no_evaluation_image(
    project: Project, artifact: Artifact
) -> dg.AssetCheckResult:
    """Training on the images one measures with would make every number worthless."""
    return leakage(project, artifact)


@artifact_check("control_set", blocking=True)
def control_set_holds_no_evaluation_image(
    project: Project, artifact: Artifact
) -> dg.AssetCheckResult:
    """The control is held to the same rule as the retrieved set."""
    return leakage(project, artifact)


@artifact_check("customized_checkpoint", blocking=True)
def loss_is_finite(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A loss that was ever NaN or infinite leaves weights that mean nothing."""
    losses = [
        json.loads(line)["loss"] for line in artifact.file("metrics.jsonl").read_text().splitlines()
    ]
    finite = sum(map(math.isfinite, losses))
    return dg.AssetCheckResult(
        passed=finite == len(losses) > 0,
        metadata={"steps": len(losses)},
        description=f"{finite} of {len(losses)} logged losses are finite",
    )


@artifact_check("customized_checkpoint", blocking=True)
def training_starts_at_the_base(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Closed gates must leave the base exactly as it is; otherwise a gain is not the training's.

    A head must start as the zero-shot head of the base.
    """
    method = project.method(domain_and_method(artifact.key)[1])
    difference = artifact.counts["step0_max_difference"]
    allowed = method.step0_tolerance
    what = "features" if method.has_model else "class vectors"
    return dg.AssetCheckResult(
        passed=difference <= allowed,
        metadata={"max_difference": difference},
        description=f"{what} at step 0 differ from the base's by {difference:g} at most; allowed: "
        f"{allowed:g}",
    )


@artifact_check("domain_results")
def accuracy_is_at_least_base(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Customization should not make the model worse on its own domain."""
    slug, name = domain_and_method(artifact.key)
    base = fresh_or_none(project, "domain_results", method_key(slug, "base"))
    top1 = artifact.counts.get("top1")
    reference = None if base is None else base.counts.get("top1")
    if top1 is None or reference is None:
        return unmeasured("there is no accuracy of both this method and the base")
    remedy = f"look at the pairs: react-pipeline review {slug}"
    if project.method(name).has_model:
        remedy += ", or keep more of the base: `interpolation: 0.5`"
    return warning_below(top1 - reference, "top-1 over the base", tolerance=1e-9, remedy=remedy)


@artifact_check("comparison")
def gain_is_not_shared_by_the_control(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A gain that random pairs give too does not come from retrieval; this is the smallest lead of
    any method.
    """
    top1 = artifact.counts["top1"]
    leads = {
        name: top1[name] - top1[name + CONTROL_SUFFIX]
        for name in trained_methods(project.config.all_methods)
        if {name, name + CONTROL_SUFFIX} <= set(top1)
    }
    if not leads:
        return unmeasured("no method was evaluated together with its control")
    method = min(leads, key=leads.__getitem__)
    return warning_below(leads[method], f"top-1 of {method} over its control", tolerance=-1e-9)


def count_bad_vectors(path: Path) -> int:
    """How many rows are not finite or not of length 1."""
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    bad = 0
    for start in range(0, len(vectors), CHUNK_ROWS):
        bad += len(bad_rows(vectors[start : start + CHUNK_ROWS].astype(np.float32)))
    return bad


def leakage(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """Whether pairs show an evaluation image, byte for byte or as a near duplicate, or a subject
    that is excluded.

    Independent of what retrieval recorded: the collected images are hashed and their vectors are
    compared again.
    """
    leaks = leaked_images(project, artifact.stage, artifact.key)
    leaked = leaks.same + leaks.near + leaks.subject
    pairs = artifact.counts["pairs"]
    return dg.AssetCheckResult(
        passed=leaked == 0,
        metadata={
            "leaked": leaked,
            "leaked_by_hash": leaks.same,
            "leaked_by_similarity": leaks.near,
            "leaked_by_subject": leaks.subject,
            "pairs": pairs,
            "evaluation_images": leaks.compared,
        },
        description=f"{leaked} of {pairs} pairs show an evaluation image "
        f"({leaks.same} byte for byte, {leaks.near} nearly, {leaks.subject} by subject); "
        f"{leaks.compared:,} were looked for",
    )


def unmeasured(reason: str) -> dg.AssetCheckResult:
    """Nothing to compare is not a fault, but it must not look like a success either."""
    return dg.AssetCheckResult(
        passed=True, description=f"not measured: {reason}", metadata={"measured": False}
    )


def warning_below(
    difference: float, what: str, *, tolerance: float, remedy: str = ""
) -> dg.AssetCheckResult:
    """Pass if `difference` is above minus the tolerance; else warn, with what to do."""
    passed = difference > -tolerance
    description = f"{what}: {100 * difference:+.1f} points"
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"difference": difference},
        description=f"{description}; {remedy}" if remedy and not passed else description,
    )
