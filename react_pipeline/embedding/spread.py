"""Embedding on a cluster: each task encodes a run of shards, and writes their files where the local
path writes them.

Which of two samples keeps a key depends on all shards before them. So this process reads the
headers of all shards in their order; then a task reads those of its own again, given its
duplicates.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tqdm import tqdm

from react_pipeline.embedding.embedded_shards import DUPLICATE, EmbeddedShard, Records
from react_pipeline.project import require_shared
from react_pipeline.settings import PipelineConfig

if TYPE_CHECKING:
    from react_pipeline.embedding.shard_encoder import ShardEncoder

TASK_PAIRS = 30_000
"""Of a task, at least: 20 s on a GPU, of which its start takes some."""

Item = tuple[EmbeddedShard, set[str]]
"""A shard, of which only the number of samples is known, and its duplicates."""

_loaded: dict[Path, ShardEncoder] = {}


def tasks_of(shards: Iterable[EmbeddedShard]) -> Iterator[list[Item]]:
    """Runs of shards with `TASK_PAIRS` samples each; the last may have fewer."""
    run: list[Item] = []
    for shard in shards:
        duplicates = {key for _, key, reason, *_ in shard.ledger if reason == DUPLICATE}
        run.append((EmbeddedShard(shard.number, shard.digest, total=shard.total), duplicates))
        # Those of all shards would not fit into memory.
        shard.samples.clear()
        shard.ledger.clear()
        if sum(one.total for one, _ in run) >= TASK_PAIRS:
            yield run
            run = []
    if run:
        yield run


def encode_shards(
    config: PipelineConfig, checkpoint: Path, records: Records, items: Sequence[Item]
) -> dict[str, str]:
    """Bring the files and records of shards, given with their duplicates, into place; return
    `ShardEncoder.arithmetic`.

    A task. It may run twice, even at once: it works in a folder of its own, and moves what is
    complete.
    """
    require_shared(records.scratch.folder)
    encoder = _encoder(config, checkpoint, records)
    missing = [item for item in items if not records.folder(item[0].number).exists()]
    pairs = sum(shard.total for shard, _ in missing)
    attempt = records.scratch.folder / f".{uuid4().hex}"

    def prepared() -> Iterator[EmbeddedShard]:
        for shard, duplicates in missing:
            shard.read_headers(records.locations, lambda *_, keys=duplicates: keys)
            yield shard

    with tqdm(disable=True) as bar:
        for shard, counts in encoder.encode(prepared(), attempt, bar, pairs):
            records.done(shard, attempt, **counts)
    shutil.rmtree(attempt, ignore_errors=True)
    return encoder.arithmetic


def _encoder(config: PipelineConfig, checkpoint: Path, records: Records) -> ShardEncoder:
    # Spark keeps its Python processes, so each loads the model once. The staging folder names the
    # whole build.
    if records.staging not in _loaded:
        from react_pipeline.embedding.shard_encoder import ShardEncoder

        _loaded.clear()
        _loaded[records.staging] = ShardEncoder(config, checkpoint, records.locations)
    return _loaded[records.staging]
