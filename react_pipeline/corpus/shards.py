"""Tar shards as webdataset lays them out: which samples a shard holds and at which bytes, and
writing them.

Names of members are labels, never paths: nothing is ever extracted. Does not belong here: which
shards make a corpus (`corpus`), requests to servers (`remote`), decoding (`images`).
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TypeVar, cast

from react_pipeline.corpus.images import image_extension
from react_pipeline.corpus.remote import RemoteFile
from react_pipeline.project import escape_name
from react_pipeline.store import CorpusError, open_regular

ShardLocation = Path | str
"""Where a shard is: a path, or a URL. Open it with `open_shard`, never by itself."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""In order of preference, should a sample have several images."""
CAPTION_EXTENSION = "txt"
METADATA_EXTENSION = "json"

SHARDS = "shards"
"""Folder of the artifacts that hold shards of their own."""
PAIRS_PER_SHARD = 10_000
MAX_METADATA_BYTES = 1 << 20
"""Size of the JSON object of a pair; a larger one is ignored."""
PackedSample = tuple[str, bytes, bytes, dict[str, str]]
"""Key, image, caption (UTF-8), and what else is known of a pair."""

MAX_NAME_BYTES = 16 << 10
"""Of a long name or an extended header, which tarfile reads whole."""
MAX_PADDING_BYTES = 16 << 20
"""After the end-of-archive mark; tar itself writes 10 KiB."""

T = TypeVar("T")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_EXTENDING_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Member(NamedTuple):
    """The byte range of one member in its tar, and what was read of it."""

    offset: int
    size_bytes: int
    data: bytes = b""


@dataclass
class Sample:
    """What a shard holds under one key (the member's name up to the first dot of its last part)."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> Member | None:
        """Return the image, by the order of `IMAGE_EXTENSIONS`."""
        return next((self.members[name] for name in IMAGE_EXTENSIONS if name in self.members), None)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard in their order, and the members refused as (name, reason)."""

    samples: list[Sample]
    refused: list[tuple[str, str]]

    def pairs(self, caption_extension: str = CAPTION_EXTENSION) -> int:
        """Return how many samples have an image and a caption."""
        return sum(
            sample.image is not None and caption_extension in sample.members
            for sample in self.samples
        )


def open_shard(location: ShardLocation) -> BinaryIO:
    """Open a shard for reading bytes, with seeks; the one opener of all steps. `name` is its path
    or URL.

    Open it in the process that reads it, and read in the order of offsets: remote ones are fetched
    ahead.

    Raises:
        CorpusError: If it is not there or cannot be read.
        SourceUnavailable: If its server does not answer; reading may raise both too.
    """
    if isinstance(location, str):
        return cast(BinaryIO, RemoteFile(location))
    try:
        return open_regular(location)
    except OSError as error:
        raise _unreadable(location, error) from error


def index_shard(location: ShardLocation, texts: Mapping[str, int] | None = None) -> ShardIndex:
    """Read the headers of an uncompressed tar; images are skipped.

    The rule of keys is webdataset's, but the members of a sample need not be neighbours.
    Directories and names without a key and an extension (`README`, `._a.jpg`) are passed over.
    Members with `..` or an absolute name are refused with reason `unsafe_name`, links and devices
    with `not_a_file`.

    Args:
        texts: Extension of captions -> the most bytes to read of one; metadata is read too then.

    Raises:
        CorpusError: If the shard is cut off, no tar, compressed, or holds a member twice.
            webdataset yields fewer samples silently where a tar is cut, so the end-of-archive mark
            is required.
    """
    samples: dict[str, Sample] = {}
    refused: list[tuple[str, str]] = []
    limits = {METADATA_EXTENSION: MAX_METADATA_BYTES, **texts} if texts else {}
    for file, member in _members(location):
        if member.isdir():
            continue
        name = escape_name(member.name).removeprefix("./")
        if name.startswith("/") or ".." in name.split("/"):
            refused.append((name, "unsafe_name"))
        elif not member.isreg() or member.issparse():
            refused.append((name, "not_a_file"))
        elif match := _NAME.fullmatch(name):
            key = match[1]
            extension = match[2].lower()
            sample = samples.setdefault(key, Sample(key))
            if extension in sample.members:
                raise CorpusError(
                    f"{location}: key {key!r} has two members .{extension}; keys must differ "
                    "within a shard: write the shard again or take it out of `corpus.shards`"
                )
            found = Member(member.offset_data, member.size)
            is_vast = extension == METADATA_EXTENSION and member.size > MAX_METADATA_BYTES
            if extension in limits and not is_vast:
                found = found._replace(data=read_member(file, found, limits[extension]))
            sample.members[extension] = found
    return ShardIndex(list(samples.values()), refused)


def read_member(file: IO[bytes], member: Member, limit_bytes: int | None = None) -> bytes:
    """Read a member, the first `limit_bytes` at most; `file` is its tar, open for reading.

    Raises:
        CorpusError: If the tar ends before the member does, or cannot be read.
    """
    length = member.size_bytes if limit_bytes is None else min(member.size_bytes, limit_bytes)
    try:
        file.seek(member.offset)
        data = file.read(length)
    except OSError as error:
        raise _unreadable(file.name, error) from error
    if len(data) != length:
        raise CorpusError(f"{file.name}: ends within a member; materialize `corpus` again")
    return data


def pack(samples: Iterable[PackedSample], directory: Path) -> int:
    """Write pairs into shards and return how many pairs there are."""
    pairs = 0
    for number, run in enumerate(runs(samples, PAIRS_PER_SHARD)):
        with new_tar(directory, number) as tar:
            for sample in run:
                add_pair(tar, *sample)
                pairs += 1
    return pairs


def runs(items: Iterable[T], length: int) -> Iterator[Iterator[T]]:
    """Cut what is not held in memory into runs, each of which must be used up before the next."""
    rest = iter(items)
    for first in rest:
        yield chain([first], islice(rest, length - 1))


def new_tar(directory: Path, number: int) -> tarfile.TarFile:
    """Open a shard for writing, by its number."""
    return tarfile.open(directory / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT)


def add_pair(
    tar: tarfile.TarFile, key: str, image: bytes, caption: bytes, metadata: Mapping[str, Any]
) -> None:
    """Write a sample into a tar: KEY.jpg|png|webp, KEY.txt, KEY.json. Equal samples give equal
    bytes.
    """
    fields = json.dumps(metadata, ensure_ascii=False).encode()
    files = {image_extension(image): image, CAPTION_EXTENSION: caption, METADATA_EXTENSION: fields}
    for extension, data in files.items():
        # The defaults of TarInfo (time 0, owner 0, mode 644) make the bytes reproducible.
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


class _Header(tarfile.TarInfo):
    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # The entry point that tarfile leaves to subclasses.
        if self.type in _EXTENDING_TYPES and self.size > MAX_NAME_BYTES:
            raise tarfile.ReadError(
                f"an extended header of {self.size:,} bytes, allowed are {MAX_NAME_BYTES:,}"
            )
        return super()._proc_member(tar)  # type: ignore[misc]


def _members(path: ShardLocation) -> Iterator[tuple[BinaryIO, tarfile.TarInfo]]:
    try:
        with (
            open_shard(path) as file,
            tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar,
        ):
            while (member := tar.next()) is not None:
                # tarfile keeps every header it has read; a shard can hold millions.
                tar.members = []  # type: ignore[attr-defined]
                if member.size < 0 or tar.offset <= member.offset:
                    raise CorpusError(
                        f"{path}: a header of negative size at byte {member.offset:,}"
                    )
                yield file, member
            _check_end(path, file, tar.offset)
    # Hostile headers make tarfile raise more than its own errors (chained extended headers, numbers
    # out of range).
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise CorpusError(
            f"{path}: not a complete, uncompressed tar ({error}); copy it again, or take it out "
            "of `corpus.shards`"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(shard: object, error: OSError) -> CorpusError:
    what = error.strerror or error
    return CorpusError(
        f"{shard}: cannot be read ({what}); put the shard back, or materialize `corpus` again"
    )


def _check_end(path: ShardLocation, file: IO[bytes], end: int) -> None:
    # tarfile takes a cut header, a damaged one and a missing end alike for the end of the archive.
    file.seek(end)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
        what = "a damaged header" if len(mark) == tarfile.BLOCKSIZE else "no end-of-archive mark"
        raise CorpusError(
            f"{path}: {what} at byte {end:,}, so the shard is truncated or damaged; copy it again, "
            "or take it out of `corpus.shards`"
        )
    padding = file.read(MAX_PADDING_BYTES + 1)
    if len(padding) > MAX_PADDING_BYTES or padding.strip(b"\0"):
        raise CorpusError(
            f"{path}: has data after its end-of-archive mark; keep concatenated tars as single "
            "files"
        )
