"""Kinds of corpus that others build on, and the one of tar shards: fields, and all that the
pipeline asks of them, such as how many pairs there are as far as files say before they are read.

Does not belong here: reading tars, tables and vectors, which the other modules of `corpus` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator

from react_pipeline.settings import (
    CaptionExtension,
    CorpusConfig,
    Names,
    check_shard_name,
    is_url,
)
from react_pipeline.store import InputError

if TYPE_CHECKING:
    from react_pipeline.corpus.image_source import ImageSource
    from react_pipeline.corpus.shards import ShardLocation
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact, Store

UNKNOWN_ROWS = "the rows of this corpus are not known before it is read: give --rows"


class CorpusSize(NamedTuple):
    """Pairs (or URLs) of a corpus, and bytes of one in a shard."""

    pairs: int
    pair_bytes: float


def require_local(files: Sequence[ShardLocation]) -> list[Path]:
    """Return the files; an InputError if their pairs can only be counted by reading them."""
    local = [path for path in files if isinstance(path, Path) and path.suffix != ".tsv"]
    if len(local) < len(files):
        raise InputError(UNKNOWN_ROWS)
    return local


class ListedPair(NamedTuple):
    """A pair whose image is elsewhere.

    Attributes:
        key: Identifies the pair in the corpus.
        fields: What locates its image and else describes it, as texts; every pair of a corpus has
            the same fields.
    """

    key: str
    caption: str
    fields: Mapping[str, str]


class Skipped(NamedTuple):
    """A sample that is not embedded, and the user's file or URL that it came from (or "")."""

    key: str
    reason: str
    detail: str = ""
    source: str = ""


class ListedCorpus(CorpusConfig):
    """A kind that lists its pairs; write `identity`, `publish`, `pairs` and `open_images`."""

    is_listed: ClassVar[bool] = True

    def pairs(self, store: Store, corpus: Artifact) -> Iterator[ListedPair]:
        """Yield the pairs of the published corpus, always in the same order.

        Raises:
            ChangedSource: If what they are read from has changed since it was published.
        """
        raise NotImplementedError


class ShardedCorpus(CorpusConfig):
    """A kind that publishes tar shards, as `publish_pairs` does.

    Its `identity` and `publish` are all that it needs.
    """

    is_copy: ClassVar[bool] = True

    def open_images(self, corpus: Artifact, pool: Path) -> ImageSource:
        """Return byte ranges of the tars."""
        from react_pipeline.corpus.corpus import shard_digests
        from react_pipeline.corpus.image_source import TarSource

        return TarSource(list(shard_digests(self, corpus)))

    def size(self) -> CorpusSize:
        """Raise an InputError: it is not known before the pairs are copied."""
        raise InputError(UNKNOWN_ROWS)


def _require_shards(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_shard_name(name)
    return names


class Webdataset(ShardedCorpus):
    """Tars of KEY.jpg|png|webp, KEY.txt and KEY.json."""

    kind: Literal["webdataset"] = "webdataset"
    shards: Annotated[Names, AfterValidator(_require_shards)]
    caption_extension: CaptionExtension = "txt"

    file_fields: ClassVar[tuple[str, ...]] = ("shards",)
    is_copy: ClassVar[bool] = False
    noun: ClassVar[str] = "shards"
    next_step: ClassVar[str] = "put your tars into data/, or name them in `corpus` of pipeline.yaml"

    def identity(self) -> dict[str, Any]:
        """Return which files of a shard make a pair."""
        return self.model_dump(mode="json", include={"kind", "caption_extension"})

    def publish(self, project: Project) -> Artifact:
        """Take stock of the shards."""
        from react_pipeline.corpus.corpus import publish_tar_corpus

        return publish_tar_corpus(project, self)

    def caption_extension_in_shards(self) -> str:
        """Return the extension that is configured."""
        return self.caption_extension

    def size(self) -> CorpusSize:
        """Return the size as if all shards were like the first, whose headers are read."""
        from react_pipeline.corpus.shards import index_shard

        tars = require_local(self.sources())
        first, *_ = sizes = [path.stat().st_size for path in tars]
        pair_bytes = first / max(index_shard(tars[0]).pairs(self.caption_extension), 1)
        return CorpusSize(round(sum(sizes) / pair_bytes), pair_bytes)

    def sources(self) -> Sequence[ShardLocation]:
        """Return every shard, as `find_files` orders them; only buckets are asked.

        Raises:
            CorpusError: Naming the pattern that finds no tar.
            SourceUnavailable: If an object store does not answer.
        """
        from react_pipeline.corpus.remote import find_remote
        from react_pipeline.project import find_files

        field = "corpus.shards"
        shards: dict[ShardLocation, ShardLocation] = {}
        for pattern in self.shards:
            if is_url(pattern):
                shards |= {shard: shard for shard in find_remote(pattern, field)}
            else:
                for path in find_files([pattern], (".tar",), field):
                    shards.setdefault(path.resolve(), path)
        return list(shards.values())

    @classmethod
    def template(cls, name: str) -> str:
        """Return a section with the tars of the folder `data`."""
        return """\
kind: webdataset
# Tars of jpg|png|webp + txt (+ json): paths, patterns, s3://bucket/data/*.tar, https://host/{00000..00099}.tar
shards: [data/*.tar]
"""
