"""The line that announces a step, with how long it took before; the rate of one that is done."""

from collections.abc import Callable
from typing import Any

from react_pipeline.project import Manifests, Project
from react_pipeline.settings import CONTROL_SUFFIX, pairs_of
from react_pipeline.stage import ALL, STAGES
from react_pipeline.store import Artifact, ReactError

Amount = Callable[[Project, str], int]


def _count_of(stage: str, name: str) -> Amount:
    """A count of an artifact before the step, of the same domain or of all."""

    def amount(project: Project, key: str) -> int:
        parent_key = ALL if STAGES[stage].scope == "all" else key.split("/")[0]
        return int(project.store.current(stage, parent_key).counts[name])

    return amount


def _pairs(project: Project, _key: str) -> int:
    from react_pipeline.corpus import count_pairs

    return count_pairs(project.store.current("corpus", ALL)) or 0


def _images_of_training(project: Project, key: str) -> int:
    slug, method = key.split("/")
    return project.training(slug, method).images(
        lambda: _count_of(pairs_of(method), "pairs")(project, key)
    )


def _count(name: str) -> Callable[[Artifact], Any]:
    return lambda artifact: artifact.counts.get(name)


def _images_trained(artifact: Artifact) -> Any:
    return artifact.counts.get("steps", 0) * artifact.manifest["config"].get("batch_size", 0)


AMOUNTS: dict[str, tuple[str, Amount, Callable[[Artifact], Any]]] = {
    "corpus_embeddings": ("pairs", _pairs, _count("rows")),
    "faiss_index": ("rows", _count_of("corpus_embeddings", "rows"), _count("rows")),
    "retrieved_set": (
        "classes",
        lambda project, key: len(project.domain(key).class_names),
        _count("classes"),
    ),
    "control_set": ("pairs", _count_of("retrieved_set", "pairs"), _count("pairs")),
    "customized_checkpoint": ("images in all steps", _images_of_training, _images_trained),
    "domain_results": ("images", _count_of("evaluation_set", "images"), _count("n")),
}
"""Of each stage whose work can be counted before it begins: the unit, today's amount, and that of
an artifact.
"""


def announce(project: Project, stage: str, key: str) -> str:
    """What a step is about to do: how much, and about how many seconds, as far as either is known.

    Seconds are those of the newest artifact of the same stage and method, in proportion to the
    amount. Never raises for what the step itself will complain about.
    """
    if stage not in AMOUNTS:
        return ""
    unit, amount_of, _ = AMOUNTS[stage]
    look = Manifests.of(project)
    try:
        amount = amount_of(look, key)
        before = _newest(look, stage, key)
    except (ReactError, OSError, KeyError):
        return ""
    if not amount:
        return ""
    announced = f"{amount:,} {unit}"
    per_second = 0 if before is None else _per_second(before)
    return (
        f"{announced}, about {max(1, round(amount / per_second)):,} s" if per_second else announced
    )


def rate_of(artifact: Artifact) -> dict[str, float]:
    """How much of its work a step did in a second, under a name such as `rows_per_second`; empty if
    that is unknown.
    """
    per_second = _per_second(artifact)
    return (
        {f"{AMOUNTS[artifact.stage][0].split()[0]}_per_second": round(per_second, 1)}
        if per_second
        else {}
    )


def _per_second(artifact: Artifact) -> float:
    """0 where it is not known."""
    done = AMOUNTS[artifact.stage][2](artifact) if artifact.stage in AMOUNTS else None
    seconds = artifact.counts.get("seconds")
    return done / seconds if done and seconds else 0.0


def _newest(project: Project, stage: str, key: str) -> Artifact | None:
    method = key.partition("/")[2].removesuffix(CONTROL_SUFFIX)
    alike = [
        project.store.current(stage, other)
        for other in project.store.keys(stage)
        if other.partition("/")[2].removesuffix(CONTROL_SUFFIX) == method
    ]
    return max(alike, key=lambda artifact: str(artifact.manifest["created"]), default=None)
