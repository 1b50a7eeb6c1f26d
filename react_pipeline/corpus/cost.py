"""What a corpus has and costs, as far as its files say before they are read.

Does not belong here: the sums of a plan (`extensions.plan`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.corpus.corpus import count_pairs
from react_pipeline.corpus.kinds import UNKNOWN_ROWS
from react_pipeline.corpus.shards import ShardLocation, index_shard
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.stage import ALL
from react_pipeline.store import InputError, ReactError

IMAGE_BYTES = 25_000
"""Of an image at 256 pixels; assumed."""


@dataclass(frozen=True)
class CorpusSize:
    """Pairs (or URLs) of a corpus, bytes of one in a shard, and processor seconds to draw one."""

    pairs: int
    pair_bytes: float
    draw_seconds: float = 0

    @property
    def bytes(self) -> float:
        """Return the bytes of all pairs."""
        return self.pairs * self.pair_bytes

    @classmethod
    def of(cls, project: Project, rows: int | None = None) -> "CorpusSize":
        """Return what a project's corpus has: `rows`, or as published from today's configuration,
        or as its files say.

        Raises:
            InputError: If they do not say how many pairs there are.
            CorpusError: If they are not there.
        """
        corpus = project.config.corpus
        if rows:
            return cls(rows, corpus.assumed_pair_bytes, corpus.draw_seconds())
        if corpus.is_listed and not corpus.fetches_images:  # the artifact holds no image
            return corpus.size()
        with suppress(ReactError):
            published = fresh_or_none(project, "corpus", ALL)
            if published and (pairs := count_pairs(published)):
                has_images = not corpus.fetches_images
                total = published.counts["bytes"] if has_images else pairs * IMAGE_BYTES
                return cls(pairs, total / pairs, corpus.draw_seconds())
        return corpus.size()


@dataclass(frozen=True)
class CorpusWork:
    """What publishing and embedding a corpus takes.

    Attributes:
        noun: What its rows are.
        disk, memory: Bytes.
        read_bytes: Bytes that are read or written by one core.
        checked_rows: Rows of tables that are read and checked.
        encodes_images, encodes_captions, writes_vectors: Of `corpus_embeddings`; false where
            vectors are there already.
    """

    noun: str = "pairs"
    disk: float = 0
    memory: float = 0
    read_bytes: float = 0
    checked_rows: int = 0
    encodes_images: bool = True
    encodes_captions: bool = True
    writes_vectors: bool = True


def require_local(files: Sequence[ShardLocation]) -> list[Path]:
    """Return the files; an InputError if their pairs can only be counted by reading them."""
    local = [path for path in files if isinstance(path, Path) and path.suffix != ".tsv"]
    if len(local) < len(files):
        raise InputError(UNKNOWN_ROWS)
    return local


def size_of_tars(tars: list[Path], caption_extension: str) -> CorpusSize:
    """Return the pairs, and the bytes of one; all shards count as the first one, whose headers
    alone are read.
    """
    first, *_ = sizes = [path.stat().st_size for path in tars]
    pair_bytes = first / max(index_shard(tars[0]).pairs(caption_extension), 1)
    return CorpusSize(round(sum(sizes) / pair_bytes), pair_bytes)
