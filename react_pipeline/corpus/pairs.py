"""Pairs: one sample's bytes made into an image, a caption and metadata, or the reason why it cannot
be used.

Does not belong here: where the bytes are (`shards`), the rules for images (`images`).
"""

import codecs
import hashlib
import json
from dataclasses import dataclass
from typing import IO

from PIL import Image

from react_pipeline.corpus.decoding_process import decode_apart
from react_pipeline.corpus.images import BadSample
from react_pipeline.corpus.shards import Member, Sample, read_member
from react_pipeline.settings import CorpusConfig
from react_pipeline.store import MAX_IMAGE_BYTES

MAX_METADATA_BYTES = 1 << 20
MAX_METADATA_FIELDS = 64
MAX_FIELD_NAME_CHARS = 100

RESERVED_FIELDS = frozenset(
    {
        "image_path",
        "caption",
        "metadata",
        "shard",
        "image_sha256",
        "image_offset",
        "image_bytes",
        "caption_offset",
        "caption_bytes",
    }
)
"""Columns of the embeddings' metadata; a sample's own field of such a name is left out."""


@dataclass(frozen=True)
class Pair:
    """A usable sample.

    Attributes:
        image_sha256: Of the image file's bytes.
        caption: Without blanks around it, never empty.
        caption_cut: Whether it was longer than `max_caption_chars`.
        fields: The sample's own metadata; every value as text, because types differ from sample to
            sample.
        metadata_ignored: Whether metadata was left out of the pair, because it is not a JSON object
            or is too large.
    """

    image: Image.Image
    image_sha256: str
    caption: str
    caption_cut: bool
    fields: dict[str, str]
    metadata_ignored: bool


def read_pair(file: IO[bytes], sample: Sample, corpus: CorpusConfig) -> Pair:
    """Read and decode a sample from its tar, open for reading.

    Raises:
        BadSample: With the reason.
        CorpusError: If the tar ends within a member.
    """
    if sample.image is None:
        raise BadSample("no_image", f"extensions {', '.join(sorted(sample.members))}")
    caption_file = sample.members.get(corpus.caption_extension_in_shards())
    if caption_file is None:
        raise BadSample("no_caption", f"extensions {', '.join(sorted(sample.members))}")
    caption, caption_cut = _read_caption(file, caption_file, corpus.max_caption_chars)
    if sample.image.size_bytes > MAX_IMAGE_BYTES:
        raise BadSample(
            "too_many_bytes", f"{sample.image.size_bytes:,}, allowed are {MAX_IMAGE_BYTES:,}"
        )
    data = read_member(file, sample.image)
    image, _ = decode_apart(data, corpus.max_pixels)
    fields = {} if sample.metadata is None else _read_fields(file, sample.metadata)
    return Pair(
        image, hashlib.sha256(data).hexdigest(), caption, caption_cut, fields or {}, fields is None
    )


def fields_of(file: IO[bytes], sample: Sample) -> dict[str, str]:
    """A sample's own metadata alone; empty where it has none that can be used."""
    return (_read_fields(file, sample.metadata) or {}) if sample.metadata else {}


def _read_caption(file: IO[bytes], member: Member, max_chars: int) -> tuple[str, bool]:
    # A character has 4 bytes at most: a caption of gigabytes is cut without being read.
    data = read_member(file, member, limit_bytes=4 * (max_chars + 1))
    whole = len(data) == member.size_bytes
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole).strip()
    except UnicodeDecodeError as error:
        raise BadSample("caption_not_utf8", str(error)) from error
    if not text:
        raise BadSample("empty_caption")
    return text[:max_chars].strip(), len(text) > max_chars or not whole


def _read_fields(file: IO[bytes], member: Member) -> dict[str, str] | None:
    if member.size_bytes > MAX_METADATA_BYTES:
        return None
    return parse_fields(read_member(file, member))


def parse_fields(data: bytes) -> dict[str, str] | None:
    """The fields that stay with a pair, as texts; None if this is no JSON object."""
    try:
        loaded = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    fields = {}
    for name, value in loaded.items():
        if value is None or name in RESERVED_FIELDS or len(name) > MAX_FIELD_NAME_CHARS:
            continue
        fields[_storable(name)] = _storable(
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
        if len(fields) == MAX_METADATA_FIELDS:
            break
    return fields


def _storable(text: str) -> str:
    # JSON can spell half of a surrogate pair, which no UTF-8 file holds.
    return text.encode("utf-8", "replace").decode("utf-8")
