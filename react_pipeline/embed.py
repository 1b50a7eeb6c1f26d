"""Embedding the corpus: every pair's image and caption as unit vectors, in clip-retrieval's layout.

Belongs here: groups of shards and how a killed build goes on, the ledger of skipped samples. Does not belong
here: reading and encoding a batch (`inference`), what makes a sample usable (`pairs`, `images`), the model (`model`),
reading vectors and metadata back (`vectors`).

clip-retrieval's `Runner`, `NumpyWriter` and layout are used, so its tools read what is written here.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from react_pipeline.artifacts import Artifact
from react_pipeline.corpus import check_shards
from react_pipeline.durable import fsync, write_atomically
from react_pipeline.errors import CorpusError
from react_pipeline.inference import ClipMapper, LedgerRow, PairDataset, PairReader, StatsLogger
from react_pipeline.lineage import Project, resolve
from react_pipeline.shards import Sample, index_shard
from react_pipeline.vectors import FOLDERS

LEDGER_FILE = "ledger.parquet"
LEDGER_COLUMNS = ["shard", "key", "reason", "detail"]
DUPLICATE = "duplicate_key"
"""Reason of a sample whose key an earlier shard holds; unlike the other reasons it makes a shard no worse."""

_SCRATCH = "scratch"
_COUNTS_FILE = "counts.json"


def embed_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus_embeddings`.

    Files: `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy` (float16 unit rows), `metadata/metadata_N.parquet`
    (key as image_path, caption, shard, byte ranges, digest, the sample's own fields), `stats/N.json`, `ledger.parquet`,
    `counts.json`. N counts groups of shards; a killed build goes on with the first unfinished group.

    Raises:
        CorpusError: If a shard is missing, changed, damaged or has more than `max_bad_fraction` bad samples, or the
            encoder gives a vector that is not finite or zero.
    """
    inputs = resolve(project, "corpus_embeddings")
    corpus, base = inputs.parents["corpus"], inputs.parents["base_checkpoint"]
    return project.store.build(inputs, lambda staging: _embed(project, corpus, base, staging), resumable=True)


@dataclass
class _Group:
    """Consecutive shards that are embedded together, and what became of their samples."""

    number: int
    shards: list[int]
    samples: list[tuple[int, Sample]] = field(default_factory=list)
    found: Counter[int] = field(default_factory=Counter)
    ledger: list[LedgerRow] = field(default_factory=list)

    @classmethod
    def of(cls, number: int, shards: list[int], paths: list[Path], seen: set[str]) -> _Group:
        """Read the shards' headers; `seen` are the keys of all shards before, and grows."""
        group = cls(number, shards)
        for shard in shards:
            index = index_shard(paths[shard])
            group.found[shard] = len(index.samples) + len(index.refused)
            group.ledger += [(shard, name, reason, "") for name, reason in index.refused]
            for sample in index.samples:
                if sample.key in seen:
                    group.ledger.append((shard, sample.key, DUPLICATE, "an earlier shard holds this key"))
                else:
                    group.samples.append((shard, sample))
            seen.update(sample.key for sample in index.samples)
        return group

    def check(self, paths: list[Path], max_bad_fraction: float) -> None:
        """Refuse the group if one of its shards has too many bad samples."""
        for shard in self.shards:
            reasons = Counter(row[2] for row in self.ledger if row[0] == shard and row[2] != DUPLICATE)
            bad, found = reasons.total(), self.found[shard]
            if bad > max_bad_fraction * found:
                reason, times = reasons.most_common(1)[0]
                raise CorpusError(
                    f"{paths[shard]}: {bad} of {found} samples are bad ({bad / found:.0%}, allowed are "
                    f"{max_bad_fraction:.0%}), most often {reason} ({times}); mend or remove the shard, or raise "
                    "`corpus.max_bad_fraction`"
                )


def _embed(project: Project, corpus: Artifact, base: Artifact, staging: Path) -> dict[str, Any]:
    if (staging / _COUNTS_FILE).exists():
        # Killed between the last group and the publishing, which takes long where gigabytes are hashed.
        return _finished(staging)
    with warnings.catch_warnings():
        # clip-retrieval imports packages that warn of their own age.
        warnings.simplefilter("ignore")
        from clip_retrieval.clip_inference.runner import Runner
        from clip_retrieval.clip_inference.writer import NumpyWriter

    from react_pipeline.model import choose_device, load

    config = project.config.embedding
    paths = check_shards(project.store, corpus)
    clip = load(base.path, choose_device(project.config.device))
    size = config.shards_per_group
    groups = [list(range(start, min(start + size, len(paths)))) for start in range(0, len(paths), size)]
    mapper = ClipMapper(clip, config.precision, paths)
    scratch = _prepared(staging, size)
    seen: set[str] = set()
    with tqdm(total=corpus.counts.get("pairs"), desc="embedding", unit="pair", disable=None) as bar:
        for number, shards in enumerate(groups):
            started = time.perf_counter()
            # The headers of finished groups are read again, for the keys they hold.
            group = _Group.of(number, shards, paths, seen)
            marker = scratch / f"{number}.json"
            if marker.exists():
                bar.update(json.loads(marker.read_text())["rows"])
                continue
            dataset = PairDataset(group.samples, paths, project.config.corpus, clip.preprocess)
            reader = PairReader(dataset, config.batch_size, config.workers, pin_memory=clip.device == "cuda")
            logger = StatsLogger(staging / "stats" / f"{number}.json", bar)
            runner = Runner(
                lambda _sampler, reader=reader: reader,
                lambda: mapper,
                lambda partition: NumpyWriter(partition, str(staging), True, True, True, len(groups)),
                lambda _partition, logger=logger: logger,
                len(groups),
            )
            runner(number)
            group.ledger += reader.ledger
            group.check(paths, project.config.corpus.max_bad_fraction)
            ledger = pd.DataFrame(group.ledger, columns=LEDGER_COLUMNS).astype({"shard": "int32"})
            ledger.to_parquet(scratch / f"{number}.parquet", index=False)
            counts = {"rows": int(logger.stats["sample_count"]), **reader.counts}
            written = [path for path in _files_of_group(staging, number, len(groups)) if path.exists()]
            _mark_done(
                marker, [*written, scratch / f"{number}.parquet"], {**counts, "seconds": time.perf_counter() - started}
            )
    return _finish(staging, scratch, len(groups), clip.dimension, clip.device)


def _prepared(staging: Path, shards_per_group: int) -> Path:
    """The folder of markers and ledgers. Groups cut in another way are of no use: then everything starts anew."""
    scratch = staging / _SCRATCH
    plan = scratch / "shards_per_group"
    if staging.exists() and not (plan.exists() and plan.read_text() == str(shards_per_group)):
        shutil.rmtree(staging)
    scratch.mkdir(parents=True, exist_ok=True)
    plan.write_text(str(shards_per_group))
    return scratch


def _files_of_group(staging: Path, number: int, groups: int) -> list[Path]:
    # As clip-retrieval's writer names them.
    padded = str(number).zfill(int(math.log10(groups)) + 1)
    vectors = [staging / folder / f"{folder}_{padded}.npy" for folder in FOLDERS.values()]
    return [*vectors, staging / "metadata" / f"metadata_{padded}.parquet"]


def _mark_done(marker: Path, files: list[Path], counts: dict[str, Any]) -> None:
    # The marker vouches for the group's files, so they must be on disk before it, even if the power fails.
    for path in files:
        fsync(path)
    write_atomically(marker, json.dumps(counts))


def _finish(staging: Path, scratch: Path, groups: int, dimension: int, device: str) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    for number in range(groups):
        totals.update(json.loads((scratch / f"{number}.json").read_text()))
    ledger = pd.concat([pd.read_parquet(scratch / f"{number}.parquet") for number in range(groups)], ignore_index=True)
    ledger.to_parquet(staging / LEDGER_FILE, index=False)
    reasons = {str(reason): int(count) for reason, count in ledger["reason"].value_counts().items()}
    if not totals["rows"]:
        raise CorpusError(f"corpus.shards: not one pair can be used; samples were skipped for {reasons}")
    counts = {
        "rows": totals["rows"],
        "skipped": len(ledger),
        "reasons": reasons,
        "dimension": dimension,
        "captions_cut": totals["captions_cut"],
        "metadata_ignored": totals["metadata_ignored"],
        "seconds": round(totals["seconds"], 2),
        "pairs_per_second": round(totals["rows"] / totals["seconds"], 1),
        "device": device,
    }
    _mark_done(staging / _COUNTS_FILE, [staging / LEDGER_FILE], counts)
    return _finished(staging)


def _finished(staging: Path) -> dict[str, Any]:
    shutil.rmtree(staging / _SCRATCH, ignore_errors=True)
    return dict(json.loads((staging / _COUNTS_FILE).read_text()))
