"""What a corpus has and costs, as far as its files say before they are read.

Does not belong here: the sums of a plan (`workload`).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from react_pipeline.corpus.corpus import count_pairs, source_files
from react_pipeline.corpus.images import IMAGE_SUFFIXES
from react_pipeline.corpus.ready_layout import find_parts
from react_pipeline.corpus.shards import index_shard
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project, files_below
from react_pipeline.settings import CorpusConfig
from react_pipeline.stage import ALL
from react_pipeline.store import InputError, ReactError

PAIR_BYTES = 50_000
"""Of a pair in a shard; assumed."""
IMAGE_BYTES = 25_000
"""Of an image at 256 pixels; assumed."""
URL_BYTES = 160
"""Of memory a row of a table, to know repeated URLs; measured."""
ALIVE = 0.7
"""Share of web image URLs still alive after a few years; assumed."""
URLS_PER_CORE_SECOND = 100e6 / 72_000 / 16
"""100 million in 20 hours on a machine of 16 cores, by the README of img2dataset."""
DOWNLOADER_SECONDS = 5.0
"""To start a downloading process."""
TAR_BYTES = 2_500
"""That a tar adds to an image and its caption."""


@dataclass(frozen=True)
class CorpusSize:
    """Pairs (or URLs) of a corpus, bytes of one in a shard, and processor seconds to draw one (of
    the demo).
    """

    pairs: int
    pair_bytes: float
    draw_seconds: float = 0

    @classmethod
    def of(cls, project: Project, rows: int | None = None) -> "CorpusSize":
        """What a project's corpus has: `rows`, or as published from today's configuration, or as
        its files say.

        Raises:
            InputError: If they do not say how many pairs there are; as of `source_files`.
        """
        corpus = project.config.corpus
        assumed = IMAGE_BYTES if corpus.kind in ("urls", "embeddings") else PAIR_BYTES
        if rows:
            return cls(rows, assumed)
        with suppress(ReactError):
            published = fresh_or_none(project, "corpus", ALL)
            if published and (pairs := count_pairs(published)):
                return cls(
                    pairs, assumed if assumed == IMAGE_BYTES else published.counts["bytes"] / pairs
                )
        return cls._expected(corpus)

    @classmethod
    def _expected(cls, corpus: CorpusConfig) -> "CorpusSize":
        if corpus.kind == "demo":
            from react_pipeline.demo import drawing_cost

            drawings, seconds, size = drawing_cost()
            return cls(drawings, size, seconds)
        if corpus.kind == "embeddings" and corpus.embeddings is not None:
            rows = sum(part.rows for part in find_parts(corpus.embeddings, corpus))
            subset = (
                rows
                if corpus.subset is None
                else len(np.load(corpus.subset, mmap_mode="r", allow_pickle=False))
            )
            return cls(min(rows, subset), IMAGE_BYTES)
        files = source_files(corpus)
        local = [path for path in files if isinstance(path, Path)]
        if len(local) < len(files) or any(path.suffix == ".tsv" for path in local):
            raise InputError("the rows of this corpus are not known before it is read: give --rows")
        if corpus.kind == "webdataset":
            return cls(*_in_tars(local, corpus.caption_extension))
        pairs, size = _in_images(local)
        return cls(pairs, IMAGE_BYTES if corpus.kind == "urls" else size)


def _in_tars(tars: list[Path], caption_extension: str) -> tuple[int, float]:
    """The pairs, and bytes of one; all shards count as the first one, whose headers alone are read."""
    pairs = max(index_shard(tars[0]).pairs(caption_extension), 1)
    size = tars[0].stat().st_size / pairs
    return round(sum(path.stat().st_size for path in tars) / size), size


def _in_images(sources: Iterable[Path]) -> tuple[int, float]:
    pairs, total = 0, 0
    for source in sources:
        if source.is_dir():
            images = [path for path in files_below(source) if path.suffix.lower() in IMAGE_SUFFIXES]
            pairs, total = pairs + len(images), total + sum(path.stat().st_size for path in images)
        else:
            pairs, total = pairs + pq.read_metadata(source).num_rows, total + source.stat().st_size
    return pairs, TAR_BYTES + total / max(pairs, 1)
