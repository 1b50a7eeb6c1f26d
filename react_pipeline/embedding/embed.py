"""Embedding the corpus: every pair's caption, and unless they wait its image, as unit vectors.

Belongs here: the order of events, resuming a killed build, what is counted. Does not belong here:
the files of a part (`part_encoder`), parts that were embedded before (`earlier`).
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import (
    PART_PAIRS,
    Part,
    corpus_parts,
    count_pairs,
    in_processes,
    progress,
)
from react_pipeline.embedding.vectors import GROUPS_FILE, LEDGER_FILE
from react_pipeline.installation import INSTALL_CLIP_RETRIEVAL
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster, on_cluster, require_shared, spread
from react_pipeline.stage import CORPUS_EMBEDDINGS, encoder_in
from react_pipeline.store import Artifact, CorpusError, InputError, Inputs, Scratch

if TYPE_CHECKING:
    from react_pipeline.embedding.part_encoder import PartEncoder

_LEDGER = pa.schema(
    [
        ("shard", pa.int32()),
        *((name, pa.string()) for name in ("key", "reason", "detail", "source")),
    ]
)
_RECORDED = ("digest", "rows", "reasons", "captions_cut", "metadata_ignored")
"""Fields of a part for later builds. Equal inputs give equal files: no times, no device."""
_SUMMED = ("rows", "reused_rows", "captions_cut", "metadata_ignored", "seconds")


def require_clip_retrieval() -> None:
    """Refuse to go on without clip-retrieval.

    Raises:
        InputError: With the command that installs it.
    """
    if find_spec("clip_retrieval") is None or find_spec("all_clip") is None:
        raise InputError(f"clip-retrieval is not installed; run: {INSTALL_CLIP_RETRIEVAL}")


def embed_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus_embeddings`.

    Files: `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy` (float16 unit rows),
    `metadata/metadata_N.parquet` (key as image_path, caption, digest of the image, where it is, the
    sample's own fields), `ledger.parquet`, `groups.jsonl` (a line a part). N counts parts: shards,
    or runs of the pairs that a corpus lists, of which only captions are encoded unless
    `embedding.encode: both` asks for images. A killed build resumes with the first unfinished part,
    and a shard that was embedded before is linked. A kind of corpus may bring vectors instead
    (`adopt_embeddings`).

    Raises:
        CorpusError: If a shard is missing, changed or damaged, a part has too many bad samples, or
            the encoder gives a vector that is not finite or zero.
    """
    if (adopted := project.config.corpus.adopt_embeddings(project)) is not None:
        return adopted
    inputs = resolve(project, CORPUS_EMBEDDINGS)
    return project.store.build(
        inputs, lambda staging, scratch: _embed(project, inputs, staging, scratch)
    )


def _embed(project: Project, inputs: Inputs, staging: Path, scratch: Scratch) -> dict[str, Any]:
    from react_pipeline.clip import cards, read_config  # loads torch
    from react_pipeline.embedding.earlier import captions_before, embedded_before, take_over
    from react_pipeline.embedding.part_encoder import PartEncoder, load_encoder, require_good

    config = project.config
    corpus = inputs.parents["corpus"]
    base = inputs.parents[encoder_in(inputs.parents)]
    pairs = count_pairs(corpus)
    count = corpus.counts.get("shards") or math.ceil((pairs or 0) / PART_PAIRS)
    rows = count * PART_PAIRS if pairs is None else pairs
    captions = captions_before(project.store, inputs)
    encoder = PartEncoder(config, base.path, corpus, rows, captions)
    earlier = embedded_before(project.store, inputs)

    def write(part: Part, folder: Path) -> dict[str, Any]:
        if (record := take_over(earlier, part, folder)) is None:
            return encoder.write(part, folder)
        require_good(config.corpus, part, record)  # the limit may be another one than before
        return record

    def records() -> Iterator[dict[str, Any]]:
        parts = corpus_parts(project.store, config.corpus, corpus)
        with cluster(config.distributor):
            gpus = [] if on_cluster() else cards(config.device)
            if (on_cluster() or len(gpus) > 1) and not config.corpus.is_listed:
                parts = iter(listed := list(parts))
                kept = {path.name for path in scratch.folder.glob("part-*")}
                new = [
                    part
                    for part in listed
                    if part.digest not in earlier and f"part-{part.number}" not in kept
                ]
                if gpus:
                    _spread_over(gpus, encoder, scratch, new)
                else:
                    spread(partial(_keep, encoder, scratch), new, "embedding")
            for part in parts:
                yield scratch.build(f"part-{part.number}", staging, partial(write, part))

    bar = progress(records(), "embedding", "part", count)
    try:
        counts = _summed(bar, staging)
    finally:
        load_encoder.cache_clear()
    if not counts["rows"]:
        raise CorpusError(f"corpus: no usable pair; samples were skipped for {counts['reasons']}")
    return {**counts, "dimension": read_config(base.path)[0]["embed_dim"]}


def _spread_over(
    cards: Sequence[str], encoder: "PartEncoder", scratch: Scratch, parts: Sequence[Part]
) -> None:
    """Encode parts in one process a card; the decoding processes are shared out.

    Raises:
        CorpusError: If a process dies.
    """
    embedding = encoder.config.embedding
    workers = max(embedding.worker_count // len(cards), min(embedding.worker_count, 1))
    embedding = embedding.model_copy(update={"workers": workers})
    config = encoder.config.model_copy(update={"embedding": embedding})
    task = partial(_keep, replace(encoder, config=config), scratch)
    environments = [{"CUDA_VISIBLE_DEVICES": card} for card in cards]
    remedy = "with a smaller `embedding.batch_size`"
    for _ in in_processes(task, parts, environments, "embedding", remedy):
        pass


def _keep(encoder: "PartEncoder", scratch: Scratch, part: Part) -> None:
    """Encode a part as a task of a cluster or of a card. It may run twice, even at once: it works
    in a folder of its own, and moves what is complete.
    """
    require_shared(scratch.folder)
    with TemporaryDirectory(prefix=".", dir=scratch.folder) as links:
        scratch.build(f"part-{part.number}", Path(links), partial(encoder.write, part))


def _summed(records: Iterator[dict[str, Any]], staging: Path) -> dict[str, Any]:
    """Write the records and the ledger of all parts, and return the counts: sums, reasons, and what
    was computed with.
    """
    totals, reasons = Counter[str](), Counter[str]()
    used: dict[str, set[str]] = {"device": set(), "gpu": set(), "precision": set()}
    groups = (staging / GROUPS_FILE).open("w", encoding="utf-8")
    with groups, pq.ParquetWriter(staging / LEDGER_FILE, _LEDGER) as ledger:
        for record in records:
            groups.write(json.dumps({name: record[name] for name in _RECORDED}) + "\n")
            if rows := record["ledger"]:
                ledger.write_table(pa.table(list(zip(*rows, strict=True)), schema=_LEDGER))
            totals.update({name: record.get(name, 0) for name in _SUMMED})
            reasons.update(record["reasons"])
            for name in used.keys() & record.keys():
                used[name].add(record[name])
    encoded, seconds = totals["rows"] - totals["reused_rows"], totals["seconds"]
    return {
        **{name: totals[name] for name in _SUMMED},
        "skipped": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "seconds": round(seconds, 2),
        "pairs_per_second": round(encoded / seconds, 1) if seconds else 0.0,
        **{name: ", ".join(sorted(values)) for name, values in used.items()},
    }
