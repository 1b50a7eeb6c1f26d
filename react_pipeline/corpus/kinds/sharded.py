"""Corpora whose images are in tar shards, of the user or of the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from react_pipeline.settings import CorpusConfig
from react_pipeline.store import InputError

if TYPE_CHECKING:
    from react_pipeline.corpus.cost import CorpusSize, CorpusWork
    from react_pipeline.corpus.image_source import ImageSource
    from react_pipeline.corpus.shards import ShardLocation
    from react_pipeline.store import Artifact


UNKNOWN_ROWS = "the rows of this corpus are not known before it is read: give --rows"


class ShardedCorpus(CorpusConfig):
    """A kind that publishes `shards.parquet` (`inventory`), as `publish_pairs` does.

    Its `identity` and `publish` are all that it needs.

    Attributes:
        noun: What its `sources` are called.
    """

    noun: ClassVar[str] = "files"

    def open_images(self, corpus: Artifact, pool: Path) -> ImageSource:
        """Return byte ranges of the tars."""
        from react_pipeline.corpus.image_source import TarSource
        from react_pipeline.corpus.inventory import shard_paths

        return TarSource(shard_paths(corpus))

    def size(self) -> CorpusSize:
        """Raise an InputError: it is not known before the pairs are copied."""
        raise InputError(UNKNOWN_ROWS)

    def work(self, size: CorpusSize, dimension: int) -> CorpusWork:
        """Return the work of a copy: every byte is read, written, and read again for its digest."""
        from react_pipeline.corpus.cost import CorpusWork

        return CorpusWork(read_bytes=3 * size.bytes, disk=size.bytes)

    def sources(self) -> Sequence[ShardLocation]:
        """Return the files and folders that it names; a CorpusError if one is not there."""
        return tuple(value for _, value in self if isinstance(value, Path))

    def description(self) -> str:
        """Return how many `sources` there are, and how large."""
        from rich.filesize import decimal

        files = self.sources()
        local = [file for file in files if isinstance(file, Path)]
        remote = f", {len(files) - len(local)} of them remote" if len(local) < len(files) else ""
        size_bytes = sum(file.stat().st_size for file in local if file.is_file())
        size = f", {decimal(size_bytes)} on disk" if size_bytes else ""
        return f"{self.noun}: {len(files)}{remote}{size}"
