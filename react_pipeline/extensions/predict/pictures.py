"""Pictures to label: what a SOURCE on the command line means, and reading the bytes of each.

Belongs here: folders, patterns, lists, tables and shards of pictures, without labels or captions.
Does not belong here: labelled sets (`labelled`), the corpus (`corpus`), what is done with a picture
(`encoding`).
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import TextIOWrapper
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

import pyarrow as pa

from react_pipeline.corpus import (
    IMAGE_SUFFIXES,
    BadImage,
    Member,
    ShardLocation,
    find_remote,
    identify,
    index_shard,
    open_shard,
    read_member,
    text_batches,
)
from react_pipeline.project import escape_name, matches
from react_pipeline.settings import check_shard_name
from react_pipeline.store import (
    MAX_IMAGE_BYTES,
    CorpusError,
    InputError,
    file_stamp,
    open_regular,
)

_GIVE = "give image files, shards (.tar), or a table or list of paths"

LedgerRow = tuple[str, str, str]
"""A picture that gives no prediction: its name, a short reason for counting, and what exactly."""


@dataclass(frozen=True)
class Picture:
    """One picture: its name, and the file, or the member of a shard, that holds it.

    Attributes:
        name: As the output names it: a path, or `shard.tar@key`.
        path: A shard may be on a server.
        member: Of a shard; None: the picture is a whole file.
    """

    name: str
    path: ShardLocation
    member: Member | None = None

    def read(self) -> bytes:
        """Return the bytes of the image file.

        Raises:
            BadImage: With reason `unreadable` or `too_many_bytes`.
            CorpusError, SourceUnavailable: If a shard is gone, or its server does not answer.
        """
        limit = MAX_IMAGE_BYTES + 1
        if self.member is not None:
            stamp = _stamp(self.path) if isinstance(self.path, Path) else ""
            shard = _opened(self.path, stamp, os.getpid(), get_ident())
            data = read_member(shard, self.member, limit)
        else:
            try:
                with open_regular(Path(str(self.path))) as file:
                    data = file.read(limit)
            except (OSError, ValueError) as error:
                raise BadImage("unreadable", str(error)) from error
        if len(data) > MAX_IMAGE_BYTES:
            raise BadImage("too_many_bytes", f"allowed are {MAX_IMAGE_BYTES:,}")
        return data


@lru_cache(maxsize=2)
def _opened(shard: ShardLocation, _stamp: object, _process: int, _thread: int) -> BinaryIO:
    # Kept, for what is read ahead of one picture holds the next ones.
    return open_shard(shard)


def find_pictures(source: str, column: str = "path") -> tuple[list[Picture], list[LedgerRow]]:
    """Return the pictures of a SOURCE in a stable order, and what of it cannot be one.

    A folder gives all image files below it, hidden ones aside; a pattern, in quotes, its matches. A
    `.tar` is a webdataset shard, here or on a server (`s3://`, `gs://`, `https://`). A `.parquet`
    or `.csv` names a path in each row, a `.txt` in each line; relative paths are relative to that
    file. A name that occurs twice counts once.

    Args:
        column: Of tables.

    Raises:
        InputError: If there is no such source, or no picture in it, or it lists URLs.
        SourceUnavailable: If a server does not answer.
    """
    by_name: dict[str, Picture] = {}
    skipped: list[LedgerRow] = []
    for path in _files(source):
        pictures: Iterable[Picture] = [Picture(escape_name(path), path)]
        if _is_shard(path):
            pictures, refused = pictures_of_shard(path)
            skipped += refused
        elif isinstance(path, Path) and path.suffix.lower() in (".parquet", ".csv", ".txt"):
            pictures = _listed(path, column)
        for picture in pictures:
            by_name.setdefault(picture.name, picture)
    if not by_name:
        raise InputError(f"{source}: holds no picture; {_GIVE}")
    return list(by_name.values()), skipped


def require_source(source: str) -> None:
    """Refuse a SOURCE of this machine that is not there, or a folder without an image file; nothing
    is read.

    Raises:
        InputError: If it is none.
    """
    if "://" not in source and not _files(source):
        raise InputError(f"{source}: holds no picture; {_GIVE}")


def hash_pictures(pictures: Sequence[Picture]) -> str:
    """Return a SHA-256 over names, places, sizes and times of change: equal where the same pictures
    are meant.
    """
    stamps = {path: _stamp(path) for path in dict.fromkeys(picture.path for picture in pictures)}
    digest = hashlib.sha256()
    for picture in pictures:
        offset = picture.member.offset if picture.member else 0
        digest.update(f"{picture.name}\0{stamps[picture.path]}\0{offset}\n".encode())
    return digest.hexdigest()


def _stamp(path: ShardLocation) -> object:
    if not isinstance(path, Path):
        return identify(path).digest
    try:
        return file_stamp(path.stat())
    except OSError:
        return "missing"


def _files(source: str) -> Sequence[ShardLocation]:
    path = Path(source).expanduser()
    try:
        if "://" in source:
            check_shard_name(source)
            if not source.endswith(".tar"):
                raise InputError(f"{source}: of a server, give shards (.tar)")
            return find_remote(source, "SOURCE")
        if path.is_dir():
            return _images_below(path)
        files = [file for _, found in matches(path) for file in found if file.is_file()]
    except ValueError as error:
        raise InputError(str(error)) from error
    if not files:
        raise InputError(
            f"{source}: no such folder or file, and no file matches it as a pattern; run where it "
            "is, or give an absolute path"
        )
    return files


def _images_below(folder: Path) -> list[Path]:
    # Links to folders are not followed: they may lead out of it, or round in a circle.
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _is_shard(path: ShardLocation) -> bool:
    return str(path).lower().endswith(".tar")


def find_shards(source: str) -> Sequence[ShardLocation]:
    """Return the webdataset shards of a SOURCE, sorted, as every machine finds them.

    Raises:
        InputError: If it names anything else, or nothing.
        SourceUnavailable: If a server does not answer.
    """
    files = _files(source)
    if others := [path for path in files if not _is_shard(path)]:
        raise InputError(f"{others[0]}: is no shard; --by-shard needs files that end with .tar")
    return [path.absolute() if isinstance(path, Path) else path for path in files]


def pictures_of_shard(path: ShardLocation) -> tuple[list[Picture], list[LedgerRow]]:
    """Return the pictures of a shard, and the members that are none.

    Raises:
        CorpusError: If it cannot be read.
    """
    index = index_shard(path)
    shard = escape_name(path)
    pictures = []
    skipped = [(f"{shard}@{name}", reason, "") for name, reason in index.refused]
    for sample in index.samples:
        name = f"{shard}@{sample.key}"
        if sample.image is None:
            skipped.append((name, "no_image", f"extensions {', '.join(sorted(sample.members))}"))
        else:
            pictures.append(Picture(name, path, sample.image))
    return pictures, skipped


def _listed(file: Path, column: str) -> Iterator[Picture]:
    for name in filter(None, map(str.strip, _texts(file, column))):
        if "://" in name:
            raise InputError(
                f"{name}: pictures at URLs are not downloaded; download them, for example with "
                "img2dataset, and give the files or shards"
            )
        path = file.parent / Path(name).expanduser()
        yield Picture(escape_name(path), path)


def _texts(path: Path, column: str) -> Iterator[str]:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            for batch in text_batches(path, [column]):
                yield from (text or "" for text in batch.column(0).to_pylist())
            return
        with TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            yield from lines if kind == ".txt" else (row[column] or "" for row in rows)
    except (OSError, ValueError, KeyError, csv.Error, pa.ArrowException, CorpusError) as error:
        raise InputError(
            f"{path}: cannot be read as a table with the column {column!r}, which --column "
            f"names, or as a list, one path in a line ({' '.join(str(error).split())[:200]})"
        ) from error
