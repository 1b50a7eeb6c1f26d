"""Tar shards of the user, on disk, in an object store, or on a web server; they stay in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from react_pipeline.corpus.kinds.sharded import ShardedCorpus
from react_pipeline.settings import (
    CaptionExtension,
    DownloadConfig,
    Names,
    StorageConfig,
    check_shard_name,
)

if TYPE_CHECKING:
    from react_pipeline.corpus.cost import CorpusSize, CorpusWork
    from react_pipeline.corpus.shards import ShardLocation
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


class Webdataset(ShardedCorpus):
    """Tars of KEY.jpg|png|webp, KEY.txt and KEY.json."""

    kind: Literal["webdataset"] = "webdataset"
    shards: Names
    storage: StorageConfig = StorageConfig()
    caption_extension: CaptionExtension = "txt"

    file_fields: ClassVar[tuple[str, ...]] = ("shards",)
    noun: ClassVar[str] = "shards"
    next_step: ClassVar[str] = "put your tars into data/, or name them in `corpus` of pipeline.yaml"

    @field_validator("shards")
    @classmethod
    def _shards_are_paths_or_plain_urls(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        for shard in shards:
            check_shard_name(shard)
        return shards

    def identity(self) -> dict[str, Any]:
        """Return which files of a shard make a pair."""
        return self.model_dump(mode="json", include={"kind", "caption_extension"})

    def publish(self, project: Project) -> Artifact:
        """Take stock of the shards."""
        from react_pipeline.corpus.tar_corpus import publish_tar_corpus

        return publish_tar_corpus(project, self)

    def caption_extension_in_shards(self) -> str:
        """Return the extension that is configured."""
        return self.caption_extension

    def access(self) -> tuple[StorageConfig, DownloadConfig]:
        """Return how the shards are reached."""
        return self.storage, DownloadConfig()

    def size(self) -> CorpusSize:
        """Return the size as if all shards were like the first, whose headers are read."""
        from react_pipeline.corpus.cost import require_local, size_of_tars

        return size_of_tars(require_local(self.sources()), self.caption_extension)

    def work(self, size: CorpusSize, dimension: int) -> CorpusWork:
        """Return the work of reading every byte once."""
        from react_pipeline.corpus.cost import CorpusWork

        return CorpusWork(read_bytes=size.bytes)

    def sources(self) -> Sequence[ShardLocation]:
        """Return the shards."""
        from react_pipeline.corpus.tar_corpus import locate_shards

        return locate_shards(self)

    @classmethod
    def template(cls, name: str, model: str) -> str:
        """Return a section with the tars of the folder `data`."""
        return """\
kind: webdataset
# Tars of jpg|png|webp + txt (+ json): paths, patterns, s3://bucket/data/*.tar, https://host/{00000..00099}.tar
shards: [data/*.tar]
"""
