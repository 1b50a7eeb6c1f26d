"""Pairs of a corpus before their images are read: those that a kind lists, and those of a shard, by
its headers and captions.

Does not belong here: the form of a shard (`shards`), reading images (`image_source`).
"""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from react_pipeline.corpus.corpus import checked_shards
from react_pipeline.corpus.images import BadSample
from react_pipeline.corpus.kinds import ListedCorpus, ListedPair, Skipped
from react_pipeline.corpus.shards import (
    METADATA_EXTENSION,
    Member,
    Sample,
    ShardLocation,
    index_shard,
    runs,
)
from react_pipeline.settings import CorpusConfig
from react_pipeline.store import MAX_IMAGE_BYTES, Artifact, Store

PART_PAIRS = 20_000
"""Pairs of a part of a corpus that lists them; a kill loses less."""
MAX_METADATA_FIELDS = 64
MAX_FIELD_NAME_CHARS = 100

RESERVED_FIELDS = frozenset(
    {"image_path", "caption", "metadata", "shard", "image_sha256", "image_offset", "image_bytes"}
)
"""Columns of the embeddings' metadata; a sample's own field of such a name is left out."""


@dataclass
class Listing:
    """The pairs of a part, what was skipped, and how many have metadata that cannot be used."""

    pairs: list[ListedPair]
    skipped: list[Skipped]
    metadata_ignored: int = 0


@dataclass(frozen=True)
class Part:
    """Pairs that are embedded together: a shard, or some of those that a kind lists.

    Attributes:
        digest: Identifies what a shard holds; "" of listed pairs.
    """

    number: int
    digest: str
    content: ShardLocation | list[ListedPair]

    def read(self, corpus: CorpusConfig) -> Listing:
        """Return its pairs; of a shard the headers and captions are read.

        Raises:
            CorpusError: If the shard is damaged.
            SourceUnavailable: If its server does not answer.
        """
        if isinstance(self.content, list):
            return Listing(self.content, [])
        extension = corpus.caption_extension_in_shards()
        # A character has 4 bytes at most: a caption of gigabytes is cut without being read.
        index = index_shard(self.content, {extension: 4 * (corpus.max_caption_chars + 1)})
        listing = Listing([], [Skipped(name, reason) for name, reason in index.refused])
        for sample in index.samples:
            metadata = sample.members.get(METADATA_EXTENSION)
            fields = parse_fields(metadata.data) if metadata else {}
            try:
                caption, image = _usable(sample, extension)
            except BadSample as error:
                source = corpus.source_of(fields or {})
                listing.skipped.append(Skipped(sample.key, error.reason, error.detail, source))
                continue
            place: dict[str, Any] = {"shard": self.number}
            place |= {"image_offset": image.offset, "image_bytes": image.size_bytes}
            listing.pairs.append(ListedPair(sample.key, caption, {**place, **(fields or {})}))
            listing.metadata_ignored += fields is None
        return listing


def corpus_parts(store: Store, kind: CorpusConfig, corpus: Artifact) -> Iterator[Part]:
    """Yield the parts of a published corpus, always the same ones in the same order.

    Raises:
        ChangedSource: If what they are read from has changed since it was published.
    """
    if isinstance(kind, ListedCorpus):
        for number, run in enumerate(runs(kind.pairs(store, corpus), PART_PAIRS)):
            yield Part(number, "", list(run))
        return
    for number, (location, digest) in enumerate(checked_shards(kind, store, corpus).items()):
        yield Part(number, digest, location)


def _usable(sample: Sample, extension: str) -> tuple[str, Member]:
    """Return the caption of a sample and where its image is.

    Raises:
        BadSample: With the reason why it cannot be used.
    """
    there = f"extensions {', '.join(sorted(sample.members))}"
    if sample.image is None:
        raise BadSample("no_image", there)
    if (caption := sample.members.get(extension)) is None:
        raise BadSample("no_caption", there)
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        text = decoder.decode(caption.data, final=len(caption.data) == caption.size_bytes).strip()
    except UnicodeDecodeError as error:
        raise BadSample("caption_not_utf8", str(error)) from error
    if not text:
        raise BadSample("empty_caption")
    if (size_bytes := sample.image.size_bytes) > MAX_IMAGE_BYTES:
        raise BadSample("too_many_bytes", f"{size_bytes:,}, allowed are {MAX_IMAGE_BYTES:,}")
    return text, sample.image


def parse_fields(data: bytes) -> dict[str, str] | None:
    """Return the fields that stay with a pair, as texts; None if this is no JSON object."""
    try:
        loaded = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    kept = (
        (_storable(name), _storable(value))
        for name, value in loaded.items()
        if value is not None and name not in RESERVED_FIELDS and len(name) <= MAX_FIELD_NAME_CHARS
    )
    return dict(islice(kept, MAX_METADATA_FIELDS))


def _storable(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # JSON can spell half of a surrogate pair, which no UTF-8 file holds.
    return text.encode("utf-8", "replace").decode("utf-8")
