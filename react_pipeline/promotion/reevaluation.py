"""The champion measured again: its own checkpoint on today's images, when its method has another one by now.

Does not belong here: measuring (`evaluate`), what follows from the result (`promotion`).
"""

from react_pipeline.evaluation import RESULTS, write_evaluation
from react_pipeline.lineage import fresh
from react_pipeline.pipeline import ALL, STAGES, method_key
from react_pipeline.project import Project
from react_pipeline.promotion.evidence import REEVALUATED, standing
from react_pipeline.promotion.verdicts import BASE
from react_pipeline.store import Artifact, InputError, Inputs

CHECKPOINT = "customized_checkpoint"


def reevaluate(project: Project, slug: str) -> Artifact:
    """Measure the champion's checkpoint on today's images, where its method has another checkpoint by now.

    Raises:
        InputError: If the base is champion, or the checkpoint no longer fits the domain's classes.
        MissingArtifact: If there are no evaluation images, or the checkpoint is gone.
    """
    verdict, _ = standing(project, slug)
    method = verdict.champion.method
    if method == BASE:
        raise InputError(f"{slug}: the base is champion; materialize `{RESULTS}` for {slug!r} and base instead")
    key = method_key(slug, method)
    checkpoint = project.store.open(CHECKPOINT, key, verdict.champion.checkpoint)
    parents = {CHECKPOINT: checkpoint, "evaluation_set": fresh(project, "evaluation_set", slug)}
    if "base_checkpoint" in STAGES[RESULTS].parents_of(key):
        base = checkpoint.parents["base_checkpoint"]
        parents["base_checkpoint"] = project.store.open("base_checkpoint", ALL, base)
    row = STAGES[RESULTS]
    inputs = Inputs(REEVALUATED, slug, row.identity(project, key), parents, row.version)
    return project.store.build(
        inputs, lambda directory: write_evaluation(project, slug, method, checkpoint, parents, directory)
    )
