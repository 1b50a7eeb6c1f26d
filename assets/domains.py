"""The data of a domain: its labelled images and its pairs, and their checks."""

import dagster as dg

from react_pipeline.assets.declared import artifact_check, stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context
from react_pipeline.project import Project
from react_pipeline.retrieval import leaked_images
from react_pipeline.store import Artifact


@stage_asset(group_name="domain", kinds={"parquet"})
def evaluation_set(context: Context) -> dg.MaterializeResult:
    """The domain's labelled images, if it has any: never trained on, only measured with.

    It comes before retrieval so that none of its images, nor a near duplicate, can slip into
    the training pairs.
    """
    return publish(context)


@stage_asset(group_name="domain", kinds={"parquet"})
def few_shot_set(context: Context) -> dg.MaterializeResult:
    """The domain's `shots`: a few labelled pictures of each class, for the methods that train
    on them beside pairs.

    None shows an evaluation image, by its bytes or nearly. Their controls use the same
    pictures.
    """
    return publish(context)


@stage_asset(group_name="retrieval", kinds={"parquet", "webdataset"})
def retrieved_set(context: Context) -> dg.MaterializeResult:
    """REACT's first idea: the pairs of the corpus that matter for this domain, found from its
    class names alone.

    Every class name in every prompt is a query against captions (T2T) and images (T2I).
    Duplicates and evaluation images are dropped, classes are capped, and the pairs are
    collected into training shards. Look at the contact sheet: if these images are wrong,
    nothing after them can be right.
    """
    return publish(context)


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


@stage_asset(group_name="retrieval", kinds={"parquet", "webdataset"})
def control_set(context: Context) -> dg.MaterializeResult:
    """Draws as many pairs as were retrieved at random from the same corpus.

    The control of the experiment: a gain that training on these gives too does not come from
    retrieval.
    """
    return publish(context)


@artifact_check("control_set", blocking=True)
def control_set_holds_no_evaluation_image(
    project: Project, artifact: Artifact
) -> dg.AssetCheckResult:
    """The control is held to the same rule as the retrieved set."""
    return leakage(project, artifact)


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
