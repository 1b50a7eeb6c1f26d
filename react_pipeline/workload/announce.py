"""Workload: how much a step has to do, and how long that takes by what it took before.

Belongs here: the line that announces a step, the rate of one that is done. Does not belong here: progress while it runs
(a bar of the step itself).
"""

from collections.abc import Callable
from typing import Any

from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import CONTROL_SUFFIX, pairs_of
from react_pipeline.store import Artifact, ReactError

Amount = Callable[[Project, str], int]


def _count_of(stage: str, name: str) -> Amount:
    """A count of an artifact before the step, of the same domain or of all."""

    def amount(project: Project, key: str) -> int:
        of_domain = stage in ("retrieved_set", "evaluation_set")
        return int(project.store.current(stage, key.split("/")[0] if of_domain else ALL).counts[name])

    return amount


def _pairs(project: Project, _key: str) -> int:
    from react_pipeline.corpus import count_pairs

    return count_pairs(project.store.current("corpus", ALL)) or 0


def _images_of_training(project: Project, key: str) -> int:
    slug, method = key.split("/")
    training, pairs = project.training(slug, method), pairs_of(method)
    return training.images(lambda: int(project.store.current(pairs, slug).counts["pairs"]))


def _images_trained(artifact: Artifact) -> Any:
    return artifact.counts.get("steps", 0) * artifact.manifest["config"].get("batch_size", 0)


AMOUNTS: dict[str, tuple[str, Amount, Callable[[Artifact], Any]]] = {
    "corpus_embeddings": ("pairs", _pairs, lambda artifact: artifact.counts.get("rows")),
    "faiss_index": ("rows", _count_of("corpus_embeddings", "rows"), lambda artifact: artifact.counts.get("rows")),
    "retrieved_set": (
        "classes",
        lambda project, key: len(project.domain(key).class_names),
        lambda artifact: artifact.counts.get("classes"),
    ),
    "control_set": ("pairs", _count_of("retrieved_set", "pairs"), lambda artifact: artifact.counts.get("pairs")),
    "customized_checkpoint": ("images in all steps", _images_of_training, _images_trained),
    "domain_results": ("images", _count_of("evaluation_set", "images"), lambda artifact: artifact.counts.get("n")),
}
"""Of each stage whose work can be counted before it begins: the unit, today's amount, and that of an artifact."""


def announce(project: Project, stage: str, key: str) -> str:
    """What a step is about to do: how much, and about how many seconds, as far as either is known.

    Seconds are those of the newest artifact of the same stage and method, in proportion to the amount; of the first
    embeddings and the first index they are those of `plan`. Never raises for what the step itself will complain about.
    """
    if stage not in AMOUNTS:
        return ""
    unit, amount_of, done_of = AMOUNTS[stage]
    look = Manifests.of(project)
    try:
        amount = amount_of(look, key)
        before = _newest(look, stage, key)
    except (ReactError, OSError, KeyError):
        return ""
    if not amount:
        return ""
    announced = f"{amount:,} {unit}"
    done, seconds = (done_of(before), before.counts.get("seconds")) if before is not None else (None, None)
    expected = amount * seconds / done if done and seconds else _planned(look, stage)
    return f"{announced}, about {max(1, round(expected)):,} s" if expected else announced


def _planned(project: Project, stage: str) -> float | None:
    if STAGES[stage].scope != "all":
        return None
    # Imported here: they load torch, and whoever imports the assets must not.
    from react_pipeline.workload.machine import Machine
    from react_pipeline.workload.plan import plan_of

    try:
        plan = plan_of(project, Machine.here(project.config.store))
    except (ReactError, OSError, KeyError):
        return None
    step = next(step for step in plan.steps if step.stage == stage)
    hours = step.cpu_hours if step.gpu_hours is None else step.gpu_hours
    return None if hours is None else hours * 3_600


def rate_of(artifact: Artifact) -> dict[str, float]:
    """How much of its work a step did in a second, under a name such as `rows_per_second`; empty if that is unknown."""
    unit, _, done_of = AMOUNTS.get(artifact.stage, ("", None, lambda artifact: None))
    done, seconds = done_of(artifact), artifact.counts.get("seconds")
    return {f"{unit.split()[0]}_per_second": round(done / seconds, 1)} if done and seconds else {}


def _newest(project: Project, stage: str, key: str) -> Artifact | None:
    method = key.partition("/")[2].removesuffix(CONTROL_SUFFIX)
    alike = [
        project.store.current(stage, other)
        for other in project.store.keys(stage)
        if other.partition("/")[2].removesuffix(CONTROL_SUFFIX) == method
    ]
    return max(alike, key=lambda artifact: str(artifact.manifest["created"]), default=None)
