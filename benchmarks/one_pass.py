"""Retrieved sets of several domains: bytes of the corpus that are read, and seconds, alone and in
one pass.

Run `.venv/bin/python -m benchmarks.one_pass` from the repository's root. The corpus is a stand-in:
100,000 rows of random unit vectors, 512 numbers wide, and captions of ten words, of which one is a
class name of some domain. Both ways run in this process, domain after domain: all prompts are
searched among captions and images, names are counted in captions, and metadata is read: the digest
of each row that was found, and the rest of the best 200 of each class. Encoding prompts, evaluation
images and the images of pairs are left out; they cost the same either way. Bytes read are those of
the vectors that are compared and of the columns of metadata that are read. Before a pass, and
before each domain that reads alone, the page cache forgets the corpus.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.clustered import publish_embeddings, publish_parents
from benchmarks.retrieval import project_in
from react_pipeline.clip import class_prompts
from react_pipeline.extensions.names.name_counts import count_names
from react_pipeline.extensions.one_pass.shared_reads import (
    keep_counts,
    keep_metadata,
    search_together,
)
from react_pipeline.indexing import Index, Search, StoredVectors, build_index
from react_pipeline.retrieval.candidate_rows import candidate_metadata
from react_pipeline.retrieval.candidates import MODE_SIDES, Queries, find_candidates
from react_pipeline.settings import DomainConfig, RetrievalConfig
from react_pipeline.store import Artifact, Scratch

WIDTH, CHUNK_ROWS, CLASSES = 512, 10_000, 10
SETTINGS = RetrievalConfig()
IDENTITY, COLUMNS = ["image_sha256"], ["image_path", "url", "caption"]
"""What is read of all that was found, and of the pairs."""


class Bytes:
    """Counts what is read of the corpus while it is entered."""

    def __enter__(self) -> Bytes:
        self.read = 0
        blocks, group = StoredVectors.blocks, pq.ParquetFile.read_row_group

        def counted_blocks(stored: Any, *args: Any) -> Iterator[Any]:
            for first, block in blocks(stored, *args):
                self.read += block.nbytes
                yield first, block

        def counted_group(file: Any, number: int, columns: Any = None) -> Any:
            metadata = file.metadata.row_group(number)
            chunks = [metadata.column(place) for place in range(metadata.num_columns)]
            self.read += sum(c.total_compressed_size for c in chunks if c.path_in_schema in columns)
            return group(file, number, columns=columns)

        self._patches = [
            patch.object(StoredVectors, "blocks", counted_blocks),
            patch.object(pq.ParquetFile, "read_row_group", counted_group),
        ]
        for one in self._patches:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._patches:
            one.stop()


def vectors(random: np.random.Generator, rows: int) -> Any:
    """Random unit vectors."""
    drawn = random.standard_normal((rows, WIDTH), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def publish(project: Any, rows: int, names: list[str]) -> tuple[Artifact, Index]:
    """The stand-in, and its exact index."""
    random = np.random.default_rng(0)
    publish_parents(project, rows)
    chunks = (
        (vectors(random, CHUNK_ROWS), vectors(random, CHUNK_ROWS))
        for _ in range(rows // CHUNK_ROWS)
    )
    words = np.array([f"word{number}" for number in range(20_000)])

    def columns(rows: Any) -> dict[str, Any]:
        drawn = words[random.integers(len(words), size=(len(rows), 9))]
        named = random.choice(names, len(rows))
        captions = [" ".join([*of, name]) for of, name in zip(drawn, named, strict=True)]
        return {"caption": captions, "image_sha256": [random.bytes(32).hex() for _ in rows]}

    embeddings = publish_embeddings(project, chunks, WIDTH, columns)
    return embeddings, Index(build_index(project), embeddings=embeddings)


def domain(number: int) -> tuple[DomainConfig, Queries]:
    """A domain, whose prompts are random unit vectors."""
    names = tuple(f"thing{number} kind{place}" for place in range(CLASSES))
    config = DomainConfig(slug=f"domain-{number}", classes=names, templates=("a {}", "one {}"))
    prompts = class_prompts(config)
    random = np.random.default_rng([1, number])
    none = pd.DataFrame({"class_id": [], "name": []})
    return config, Queries(prompts, vectors(random, len(prompts)), none, vectors(random, 0))


def retrieve(
    index: Index, embeddings: Artifact, config: DomainConfig, queries: Queries, scratch: Scratch
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What a retrieved set reads of the corpus, apart from images."""
    found = find_candidates(index, embeddings, queries, SETTINGS, scratch).table
    described = candidate_metadata(embeddings, found["row"].drop_duplicates(), IDENTITY, scratch)
    best = found.groupby("class_id").head(SETTINGS.max_per_class)
    pairs = candidate_metadata(embeddings, best["row"], COLUMNS, scratch)
    return described, pairs, count_names(config, embeddings, scratch)


def together(
    index: Index, embeddings: Artifact, domains: list[tuple[DomainConfig, Queries]], scratch: Path
) -> None:
    """One pass for all of them."""
    scratches = [Scratch(scratch / config.slug) for config, _ in domains]
    rows = dict.fromkeys(scratches, np.empty(0, np.int64))
    for mode in SETTINGS.modes:
        searches = [
            Search(queries.of_modes(SETTINGS)[mode], SETTINGS.k_per_prompt, place)
            for (_, queries), place in zip(domains, scratches, strict=True)
        ]
        for place, of_search in zip(
            scratches,
            search_together(index, MODE_SIDES[mode], searches, Scratch(scratch / "pass")),
            strict=True,
        ):
            rows[place] = np.union1d(rows[place], of_search["row"])
    keep_metadata(embeddings, list(rows.values()), [*IDENTITY, *COLUMNS], scratches)
    keep_counts([config for config, _ in domains], scratches, embeddings)


def forget(folder: Path) -> None:
    """Drop what the page cache holds of files, as where a corpus is larger than memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes() -> int:
    """What this process has read from disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def main() -> None:
    """Print a row for each number of domains and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help=f"a multiple of {CHUNK_ROWS:,}")
    parser.add_argument("--domains", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--alone", type=int, default=100, help="most domains that read alone")
    parser.add_argument("--folder", type=Path, help="for the corpus; else a temporary one")
    given = parser.parse_args()
    domains = [domain(number) for number in range(max(given.domains))]
    names = [name for config, _ in domains for name in config.class_names]
    print("| domains | way | read, MB | from disk, MB | processor, s | wall, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        embeddings, index = publish(project_in(folder, "Flat"), given.rows, names)
        for count in given.domains:
            results = []
            for way in ["together", "alone"][: 1 + (count <= given.alone)]:
                scratch = folder / f"{way}-{count}"
                forget(embeddings.path)
                disk, processor, wall = disk_bytes(), time.process_time(), time.monotonic()
                tables = []
                with Bytes() as counted:
                    if way == "together":
                        together(index, embeddings, domains[:count], scratch)
                    for one in domains[:count]:
                        tables.append(
                            retrieve(index, embeddings, *one, Scratch(scratch / one[0].slug))
                        )
                        if way == "alone":
                            forget(embeddings.path)
                processor, wall = time.process_time() - processor, time.monotonic() - wall
                disk = disk_bytes() - disk
                results.append(tables)
                print(
                    f"| {count} | {way} | {counted.read / 1e6:,.0f} | {disk / 1e6:,.0f} "
                    f"| {processor:.1f} | {wall:.1f} |",
                    flush=True,
                )
            for shared, *alone in zip(*results, strict=True):
                for other in alone:
                    list(map(pd.testing.assert_frame_equal, shared, other))


if __name__ == "__main__":
    main()
