"""The trainings: their asset and its checks.

Does not belong here: the training itself (`react_pipeline.training`), its losses in MLflow and its
progress in the log while it runs (`tracking`).
"""

import json
import math
from functools import partial

import dagster as dg

from react_pipeline.assets.declared import artifact_check, stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context
from react_pipeline.project import Project
from react_pipeline.stage import (
    domain_and_method,
)
from react_pipeline.store import Artifact
from react_pipeline.tracking import LiveRun, Tracking


@stage_asset(group_name="customization", kinds={"torch"})
def customized_checkpoint(context: Context) -> dg.MaterializeResult:
    """REACT's second idea: the base model with new gated blocks, trained on the retrieved
    pairs; its own weights stay, except for the logit scale.

    Each new block starts with a closed gate, so that training begins exactly at the base model
    (a check asserts it). `gated-image` is the headline; `locked-text`, `locked-image` and
    `full` train the weights themselves, `lora-image` sums of low rank; `gda`, `ncm` and
    `linear-head` fit a classifier to what the frozen base sees; `<method>-control` trains the
    same way on the control set. While it runs, its losses are in MLflow; with `processes` above
    1 it runs under torchrun.

    There is a partition for every domain and each of the trained `methods` of pipeline.yaml.
    """
    from react_pipeline.extensions.cluster import train

    return publish(context, partial(train, context))


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


def customize_here(context: Context, project: Project, slug: str, method: str) -> Artifact:
    """Customize in this process; its progress is in the run's log, and in MLflow."""
    from react_pipeline.training import customize  # loads torch

    with LiveRun(Tracking.of(project), context.run.run_id, context.log.info) as observer:
        return customize(project, slug, method, observer)
