"""The plan of a project: what each step will need on a machine, before anything runs, and what will
not fit.

Does not belong here: what a step needs (`estimates`), printing (`commands`).
"""

from contextlib import suppress
from typing import NamedTuple

from react_pipeline.corpus import CorpusSize, count_pairs
from react_pipeline.extensions.plan.encoder_cost import Batch
from react_pipeline.extensions.plan.estimates import Estimates, Step
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Manifests, Project
from react_pipeline.stage import ALL, CORPUS
from react_pipeline.store import ReactError

REMEDIES = {
    "corpus": "download with img2dataset on a cluster and use `corpus.kind: webdataset`",
    "corpus_embeddings": "lower `embedding.batch_size`",
    "customized_checkpoint": "lower `customization.batch_size`, or raise `accumulation` or "
    "`processes`",
    "faiss_index": "set `index.key: auto`, or a key of shorter codes, such as "
    "OPQ64_512,IVF4096_HNSW32,PQ64x8",
}
"""Remedies by stage, where it takes more memory than the machine or a GPU has."""


class Plan(NamedTuple):
    """The steps, and what will not fit, with the setting that helps."""

    rows: int
    steps: list[Step]
    problems: list[str]


def make_plan(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """Estimate every step of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say.

    Raises:
        InputError: If the number of rows is not known, or `index.key` does not fit the vectors.
    """
    look = Manifests.of(project)
    size = CorpusSize(rows, look.config.corpus.assumed_pair_bytes) if rows else corpus_size(look)
    steps = Estimates(look, machine, size).steps()
    due = [step for step in steps if rows or not step.built]
    problems = []
    if (needed := sum(step.work.disk for step in due)) > machine.disk:
        problems.append(
            f"disk: {needed / 1e9:,.0f} GB are needed, {machine.disk / 1e9:,.0f} GB are free: "
            "set `store` to a larger disk, `corpus.download.image_size: 256`, or "
            "`index.memory_gib` for a smaller index"
        )
    for step in due:
        limit = machine.card if step.work.batch and machine.gpus else machine.memory
        if limit and step.memory > limit:
            problems.append(
                f"{step.stage}: {step.memory / 1e9:,.1f} GB of memory are needed"
                f"{_too_many(step.work.batch, limit)}, {limit / 1e9:,.1f} GB are available: "
                f"{REMEDIES[step.stage]}"
            )
    return Plan(size.pairs, steps, problems)


def _too_many(batch: Batch | None, limit: int) -> str:
    if batch is None:
        return ""
    fits = max(0, int((limit - batch.fixed_bytes) / max(batch.row_bytes, 1)))
    return f" by {batch.rows:,} rows at once, of which at most {fits:,} fit"


def corpus_size(project: Project) -> CorpusSize:
    """Return the size of a corpus as published from today's configuration, or as its files say."""
    corpus = project.config.corpus
    if not corpus.is_listed or corpus.fetches_images:  # else the artifact holds no image
        with suppress(ReactError):
            published = fresh_or_none(project, CORPUS, ALL)
            if published and (pairs := count_pairs(published)):
                each = corpus.assumed_pair_bytes
                return CorpusSize(
                    pairs, each if corpus.fetches_images else published.counts["bytes"] / pairs
                )
    return corpus.size()
