"""Embedding the corpus: every pair's image and caption as unit vectors, in clip-retrieval's layout,
by its own writer.

Belongs here: the order of events, resuming a killed build, what is counted. Does not belong here:
the record of a shard (`embedded_shards`), taking over what was embedded before (extensions),
encoding (`shard_encoder`, `spread`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from react_pipeline.corpus import SHARDS_FILE, check_shards, count_pairs
from react_pipeline.embedding.embedded_shards import (
    LEDGER_SCHEMA,
    SHARD_LEDGER_COLUMNS,
    EmbeddedShard,
    Records,
)
from react_pipeline.embedding.listed import embed_listed
from react_pipeline.embedding.seen_keys import SeenKeys
from react_pipeline.embedding.spread import encode_shards, tasks_of
from react_pipeline.embedding.vectors import GROUPS_FILE
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster, on_cluster, spread
from react_pipeline.settings import PipelineConfig
from react_pipeline.stage import CORPUS_EMBEDDINGS, encoder_in
from react_pipeline.store import Artifact, CorpusError, Inputs, Scratch, link_or_copy

LEDGER_FILE = "ledger.parquet"

TakeOver = Callable[[EmbeddedShard, Records, SeenKeys], dict[str, Any] | None]
"""Links the files of a shard that was embedded before into a build; the counts of its record, or
None if it has to be encoded. The shard gets its ledger and the number of its samples, and its keys
enter the register."""

_OF_ONE_BUILD = ("seconds", "reused_rows")
_SUMMED = ("rows", "reused_rows", "captions_cut", "metadata_ignored", "seconds")


def embed_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus_embeddings`.

    Files: `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy` (float16 unit rows),
    `metadata/metadata_N.parquet` (key as image_path, caption, shard, byte ranges, digest, the
    sample's own fields), `ledger.parquet`, `groups.jsonl` (a line a shard). N counts shards; a
    killed build resumes with the first unfinished one, and a shard that was embedded before is
    linked (`extensions.reuse`). Of a corpus that lists its pairs, only captions are encoded unless
    `embedding.encode: both` asks for images (`listed`). A kind of corpus may bring vectors instead
    (`adopt_embeddings`).

    Raises:
        CorpusError: If a shard is missing, changed, damaged or has more than `max_bad_fraction` bad
            samples or keys of earlier shards, or the encoder gives a vector that is not finite or
            zero.
    """
    if (adopted := project.config.corpus.adopt_embeddings(project)) is not None:
        return adopted
    inputs = resolve(project, CORPUS_EMBEDDINGS)
    embed = embed_listed if project.config.corpus.is_listed else _embed
    return project.store.build(
        inputs, lambda staging, scratch: embed(project, inputs, staging, scratch)
    )


def _embed(project: Project, inputs: Inputs, staging: Path, scratch: Scratch) -> dict[str, Any]:
    from react_pipeline.clip import read_config  # loads torch
    from react_pipeline.extensions.reuse import EarlierEmbeddings  # which reads this room

    corpus = inputs.parents["corpus"]
    base = inputs.parents[encoder_in(inputs.parents)]
    locations = check_shards(project.store, corpus)
    shards = pd.read_parquet(corpus.file(SHARDS_FILE))
    digests = shards["sha256"].tolist()
    take_over = EarlierEmbeddings(project.store, inputs).take_over
    records = Records(staging, scratch, locations, project.config.corpus.max_bad_fraction)
    folders = shards["folder"].tolist() if "folder" in shards else None
    seen = SeenKeys(staging / "keys.sqlite", folders)
    build = _Build(project.config, records, digests, take_over, base, seen)
    pairs = count_pairs(corpus)
    bar = tqdm(total=pairs, desc="embedding", unit="pair", disable=None)
    with bar, closing(seen), cluster(project.config.distributor):
        arithmetic = build.run_spread(bar) if on_cluster() else build.run(bar, pairs)
    return _finish(staging, records, read_config(base.path)[0]["embed_dim"], arithmetic)


@dataclass
class _Build:
    """One run of the embedding, which resumes what a killed one left."""

    config: PipelineConfig
    records: Records
    digests: list[str]
    take_over: TakeOver
    base: Artifact
    seen: SeenKeys

    def run(self, bar: Any, pairs: int | None) -> dict[str, str]:
        """Bring every shard into place; return `ShardEncoder.arithmetic`."""
        from react_pipeline.embedding.shard_encoder import ShardEncoder

        encoder = ShardEncoder(self.config, self.base.path, self.records.locations)
        for shard, counts in encoder.encode(self._to_encode(bar), self.records.staging, bar, pairs):
            self.records.done(shard, self.records.staging, **counts)
        return encoder.arithmetic

    def run_spread(self, bar: Any) -> dict[str, str]:
        """Like `run`, with tasks of the cluster for runs of shards."""
        encode = partial(encode_shards, self.config, self.base.path, self.records)
        answers = spread(encode, list(tasks_of(self._to_encode(bar))), "embedding")
        # Executors may differ; the manifest names every device and precision that was used.
        names = ("device", "gpu", "precision")
        used = {name: {answer[name] for answer in answers} for name in names}
        return {name: ", ".join(sorted(values)) for name, values in used.items()}

    def _to_encode(self, bar: Any) -> Iterator[EmbeddedShard]:
        """The shards that are neither finished nor can be taken over, with their headers read; the
        others on the way.

        Runs in the thread that reads ahead.
        """
        records = self.records
        for number, digest in enumerate(self.digests):
            shard = EmbeddedShard(number, digest)
            if records.folder(number).exists():
                record = records.load(number)
                self.seen.add(number, records.keys_of(number, record))
                bar.update(record["rows"])
                continue
            counts = self.take_over(shard, records, self.seen)
            if counts is None:
                shard.read_headers(records.locations, self.seen.enter)
                yield shard
            else:
                records.done(shard, records.staging, **counts, reused_rows=counts["rows"])
                bar.update(counts["rows"])


def _finish(
    staging: Path, done: Records, dimension: int, arithmetic: dict[str, str]
) -> dict[str, Any]:
    totals = Counter[str]()
    reasons = Counter[str]()
    records = (staging / GROUPS_FILE).open("w", encoding="utf-8")
    with records, pq.ParquetWriter(staging / LEDGER_FILE, LEDGER_SCHEMA) as ledger:
        row_groups = 0
        for number in range(len(done.locations)):
            record = done.load(number)
            for name in done.files(number):
                if (kept := done.folder(number) / name).exists():
                    link_or_copy(kept, staging / name)
            reasons.update(record["reasons"])
            totals.update({name: record.get(name, 0) for name in _SUMMED})
            rows = record["ledger"]
            record["ledger"] = row_groups if rows else None
            # Equal inputs give equal files, whoever builds them: no times, no history.
            record = {name: value for name, value in record.items() if name not in _OF_ONE_BUILD}
            if rows:
                # A row group of its own, so that a later build reads no other.
                columns = dict(zip(SHARD_LEDGER_COLUMNS, zip(*rows, strict=True), strict=True))
                table = pa.Table.from_pydict(columns, schema=LEDGER_SCHEMA)
                ledger.write_table(table, row_group_size=len(rows))
                row_groups += 1
            records.write(json.dumps(record) + "\n")
    if not totals["rows"]:
        raise CorpusError(f"corpus: no usable pair; samples were skipped for {dict(reasons)}")
    encoded = totals["rows"] - totals["reused_rows"]
    return {
        "rows": totals["rows"],
        "reused_rows": totals["reused_rows"],
        "skipped": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "dimension": dimension,
        "captions_cut": totals["captions_cut"],
        "metadata_ignored": totals["metadata_ignored"],
        "seconds": round(totals["seconds"], 2),
        "pairs_per_second": round(encoded / totals["seconds"], 1) if totals["seconds"] else 0.0,
        **arithmetic,
    }
