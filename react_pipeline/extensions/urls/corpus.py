"""A corpus from tables of URLs: images are downloaded and packed into tar shards, inside the
artifact `corpus`.

Files: `shards/NNNNN.tar` (KEY.jpg|png|webp, KEY.txt, KEY.json with the URL), `shards.parquet`,
`failed.parquet`. Does not belong here: reading the tables (`tables`), fetching
(`web.downloads`).
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import (
    SHARDS,
    add_member,
    index_shard,
    new_tar,
    open_shard,
    pack,
    read_member,
    shard_file,
    take_stock_of,
)
from react_pipeline.extensions.urls.corpus_kind import UrlTables
from react_pipeline.extensions.urls.tables import UrlRow, find_tables, read_rows
from react_pipeline.extensions.web import download_images
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster
from react_pipeline.store import (
    Artifact,
    CorpusError,
    CorruptArtifact,
    MissingArtifact,
    Scratch,
    link_or_copy,
    remembered_sha256,
    write_atomically,
)

FAILED_FILE = "failed.parquet"
FAILED_COLUMNS = ["key", "url", "reason", "detail", "attempts"]
PART_ROWS = 40_000
"""Rows that are downloaded, packed and marked as done together. So much is kept twice on disk for a
while.
"""

_WORK = "work"
"""Folder of tables that are not published."""
_SCHEMA = pa.schema([(name, pa.string()) for name in UrlRow._fields])

logger = logging.getLogger(__name__)


def publish_url_corpus(project: Project, corpus: UrlTables) -> Artifact:
    """Publish the artifact `corpus` of kind `urls`.

    The same tables give the same fingerprint, though the web may give other images on another day;
    so an artifact is made once, and raising `corpus.download.retries` is the way to try again what
    failed. What the current corpus holds of the same URLs and captions is taken over without a
    request; its failures too, unless `retries` was raised.

    Raises:
        CorpusError: If a table is unusable, or more than `corpus.download.max_failed_fraction` of
            the images could not be downloaded. What was downloaded is kept for the next run.
    """
    tables = find_tables(corpus.urls)
    content = [remembered_sha256(project.store.root, path) for path in tables]
    inputs = resolve(project, "corpus", content=content)
    return project.store.build(
        inputs, lambda staging, scratch: _build(project, corpus, tables, staging, scratch)
    )


def _build(
    project: Project, corpus: UrlTables, tables: list[Path], staging: Path, scratch: Scratch
) -> dict[str, Any]:
    plan = scratch.build(
        "plan", staging, lambda folder: _plan(_earlier(project, corpus), corpus, tables, folder)
    )
    tables_of_work = staging / _WORK
    remaining = pq.ParquetFile(tables_of_work / "remaining.parquet")
    counted = (Counter(plan["failed"]), plan["taken_over"], plan["shards"])
    progress = _Progress(corpus, staging, scratch, *counted)
    with cluster(project.config.distributor):
        for part in range(remaining.num_row_groups):
            progress.run(part, remaining)
    progress.check()
    if not progress.pairs:
        raise CorpusError(
            f"corpus.urls: none of {plan['rows']:,} images could be downloaded, most often "
            f"{_often(progress.reasons)}; check the network and the table"
        )
    ledger = pd.concat(
        [pd.read_parquet(path) for path in sorted(tables_of_work.glob("failed*.parquet"))],
        ignore_index=True,
    )
    ledger.to_parquet(staging / FAILED_FILE, index=False)
    shards = sorted((staging / SHARDS).glob("*.tar"), key=lambda path: int(path.stem))
    stock = take_stock_of(staging, shards)
    shutil.rmtree(tables_of_work)
    return {
        **stock,
        "pairs": progress.pairs,
        "taken_over": plan["taken_over"],
        "failed": len(ledger),
        "reasons": {
            str(reason): int(count) for reason, count in ledger["reason"].value_counts().items()
        },
        "skipped": plan["skipped"],
    }


def _plan(
    earlier: Artifact | None, corpus: UrlTables, tables: list[Path], staging: Path
) -> dict[str, Any]:
    """Read the tables, take over what is there, and write down what remains to be downloaded."""
    for name in (SHARDS, _WORK):
        (staging / name).mkdir()
    scratch = staging / _WORK
    skipped = Counter[str]()
    shards = 0
    had = set[str]()
    failed = pd.DataFrame(columns=FAILED_COLUMNS)
    if earlier:
        keys = {row.key for row in read_rows(tables, corpus, Counter())}
        shards, had = _take_over(earlier, keys, staging / SHARDS)
        if _tried_as_hard(earlier, corpus):
            failed = pd.read_parquet(earlier.file(FAILED_FILE))
            failed = failed[failed["key"].isin(keys)]
    _write_ledger(scratch / "failed.parquet", failed)
    done = had | set(failed["key"])
    rows = (row for row in read_rows(tables, corpus, skipped) if row.key not in done)
    remaining = _write_rows(scratch / "remaining.parquet", rows)
    if not done and not remaining:
        raise CorpusError(
            f"corpus.urls: no usable row in {len(tables)} tables"
            + (f"; rows were skipped for {dict(skipped)}" if skipped else ", which are empty")
        )
    return {
        "rows": len(done) + remaining,
        "shards": shards,
        "taken_over": len(had),
        "failed": Counter(failed["reason"]),
        "skipped": dict(skipped),
    }


@dataclass
class _Progress:
    """What became of the rows so far; a part of them is downloaded, packed and marked as done
    together.
    """

    corpus: UrlTables
    staging: Path
    scratch: Scratch
    reasons: Counter[str]
    pairs: int
    shards: int

    def run(self, part: int, remaining: pq.ParquetFile) -> None:
        """Download and pack a part, unless a killed build has done so."""
        directory = self.scratch.journal(f"download_{part}")

        def write(folder: Path) -> dict[str, Any]:
            for name in (SHARDS, _WORK):
                (folder / name).mkdir()
            rows = remaining.read_row_group(part).to_pandas()
            ledger = folder / _WORK / f"failed_{part:06d}.parquet"
            return self._done(rows, directory, folder / SHARDS, ledger)

        done = self.scratch.build(f"part_{part}", self.staging, write)
        self.reasons.update(done["reasons"])
        self.pairs += done["pairs"]
        self.shards += done["shards"]
        shutil.rmtree(directory, ignore_errors=True)

    def check(self, pairs: int = 0, reasons: Mapping[str, int] | None = None) -> None:
        """Stop if too many downloads failed, those of a part included."""
        counted = self.reasons + Counter(reasons)
        failed = counted.total()
        allowed = self.corpus.download.max_failed_fraction
        tried = failed + self.pairs + pairs
        if tried and failed > allowed * tried:
            raise CorpusError(
                f"corpus.urls: {failed:,} of {tried:,} images could not be downloaded "
                f"({failed / tried:.0%}, allowed are {allowed:.0%}), most often {_often(counted)}; "
                "check the network and the table and run again (finished downloads are kept), or "
                "raise `corpus.download.max_failed_fraction`"
            )

    def _done(
        self, rows: pd.DataFrame, directory: Path, shards_folder: Path, ledger: Path
    ) -> dict[str, Any]:
        rows["row"] = range(len(rows))
        corpus = self.corpus
        refusals = directory / "refusals"
        refused = int(refusals.read_text()) if refusals.exists() else 0
        # Failures of a network that was down are on record; a run after a refusal may try as often
        # again.
        settings = corpus.download.model_copy(
            update={"retries": (refused + 1) * (corpus.download.retries + 1) - 1}
        )
        got = download_images(rows[["row", "url", "hash"]], directory, settings, corpus.max_pixels)
        reasons = {
            str(reason): int(count) for reason, count in got.failed["reason"].value_counts().items()
        }
        try:
            self.check(len(got.images), reasons)
        except CorpusError:
            write_atomically(refusals, str(refused + 1))
            raise
        pairs = rows.iloc[got.images["row"]].itertuples(index=False)
        samples = (
            (row.key, got.read(int(row.row)), row.caption.encode(), {"url": row.url})
            for row in pairs
        )
        shards = pack(samples, shards_folder, self.shards)
        _write_ledger(ledger, got.failed.assign(key=rows["key"].iloc[got.failed["row"]].to_numpy()))
        return {"pairs": len(got.images), "reasons": reasons, "shards": shards}


def _often(reasons: Counter[str]) -> str:
    """The commonest reasons of failures."""
    return (
        ", ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common(3))
        or "no reason"
    )


def _earlier(project: Project, corpus: UrlTables) -> Artifact | None:
    """The current corpus, if its images were made by the same rules."""
    try:
        artifact = project.store.current("corpus", "all")
    except MissingArtifact:
        return None
    except CorruptArtifact as error:
        logger.warning("%s; nothing is taken over from it", error)
        return None
    recorded = artifact.manifest["config"]
    identity = {
        "kind": "urls",
        "image_size": corpus.download.resizing,
        "hash_column": corpus.hash_column,
    }
    return artifact if identity.items() <= recorded.items() else None


def _tried_as_hard(earlier: Artifact, corpus: UrlTables) -> bool:
    recorded = earlier.manifest["config"]
    download = corpus.download
    return bool(
        recorded["retries"] >= download.retries
        and recorded["max_pixels"] >= corpus.max_pixels
        and recorded["allow_private_addresses"] >= download.allow_private_addresses
    )


def _take_over(earlier: Artifact, keys: set[str], directory: Path) -> tuple[int, set[str]]:
    """Bring over the pairs of an earlier corpus that are still wanted; whole shards become links to
    the same bytes.

    Returns:
        The number of shards, and the keys that they hold.
    """
    had: set[str] = set()
    shards = 0
    for name in sorted(name for name in earlier.manifest["files"] if name.startswith(f"{SHARDS}/")):
        path = earlier.file(name)
        index = index_shard(path)
        kept = [sample for sample in index.samples if sample.key in keys]
        if not kept:
            continue
        target = shard_file(directory, shards)
        if len(kept) == len(index.samples):
            link_or_copy(path, target)
        else:
            with open_shard(path) as file, new_tar(target) as tar:
                for sample in kept:
                    for extension, member in sample.members.items():
                        add_member(tar, f"{sample.key}.{extension}", read_member(file, member))
        had.update(sample.key for sample in kept)
        shards += 1
    return shards, had


def _write_rows(path: Path, rows: Iterator[UrlRow]) -> int:
    """Write a parquet file whose row groups are parts; gives how many rows there are."""
    written = 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while block := list(islice(rows, PART_ROWS)):
            columns = [pa.array(column, pa.string()) for column in zip(*block, strict=True)]
            writer.write_table(pa.table(columns, _SCHEMA), row_group_size=PART_ROWS)
            written += len(block)
    return written


def _write_ledger(path: Path, failed: pd.DataFrame) -> None:
    text = {name: "string" for name in FAILED_COLUMNS if name != "attempts"}
    failed[FAILED_COLUMNS].astype({**text, "attempts": "int32"}).to_parquet(path, index=False)
