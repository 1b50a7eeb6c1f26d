"""Pictures to label: what a SOURCE on the command line means, and reading the bytes of each.

Belongs here: folders, patterns, lists, tables and shards of pictures, without labels or captions.
Does not belong here: labelled sets (`labelled`), the corpus (`corpus`), what is done with a picture
(`encoding`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from itertools import chain
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

from react_pipeline.corpus import (
    IMAGE_SUFFIXES,
    BadImage,
    ShardLocation,
    identify,
    index_shard,
    open_shard,
    server_of,
)
from react_pipeline.settings import StorageConfig, check_shard_name, expand
from react_pipeline.store import (
    MAX_IMAGE_BYTES,
    CorpusError,
    InputError,
    open_regular,
    outside_stamp,
    read_bounded,
)

_TABLES = (".parquet", ".csv")
_COLUMNS = ("path", "image", "file")
"""Which column of a table names the pictures, where none is given: the first of these that there
is.
"""

LedgerRow = tuple[str, str, str]
"""A picture that gives no prediction: its name, a short reason for counting, and what exactly."""


@dataclass(frozen=True)
class Picture:
    """One picture: its name, and the file, or the part of a file, that holds it.

    Attributes:
        name: As the output names it: a path, or `shard.tar@key`.
        path: A shard may be on a server.
        offset: Of the first byte.
        size_bytes: None: up to the end of the file.
    """

    name: str
    path: ShardLocation
    offset: int = 0
    size_bytes: int | None = None

    @property
    def is_file(self) -> bool:
        """Whether a whole file of the user's holds it."""
        return self.size_bytes is None

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            BadImage: With reason `unreadable` or `too_many_bytes`.
            CorpusError, SourceUnavailable: If a shard on a server is gone, or the server does not
                answer.
        """
        if not isinstance(self.path, Path):
            shard = _opened(self.path, os.getpid(), get_ident())
            shard.seek(self.offset)
            return shard.read(min(self.size_bytes or 0, MAX_IMAGE_BYTES))
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset)
                data = file.read(min(self.size_bytes or MAX_IMAGE_BYTES + 1, MAX_IMAGE_BYTES + 1))
        except (OSError, ValueError) as error:
            raise BadImage("unreadable", str(getattr(error, "strerror", None) or error)) from error
        if len(data) > MAX_IMAGE_BYTES:
            raise BadImage("too_many_bytes", f"allowed are {MAX_IMAGE_BYTES:,}")
        return data


@lru_cache(maxsize=2)
def _opened(shard: ShardLocation, _process: int, _thread: int) -> BinaryIO:
    # Kept, for what is read ahead of one picture holds the next ones.
    return open_shard(shard)


def find_pictures(
    source: str, column: str | None = None, storage: StorageConfig | None = None
) -> tuple[list[Picture], list[LedgerRow]]:
    """The pictures of a SOURCE in a stable order, and what of it cannot be one.

    A folder gives all image files below it, hidden ones aside; a pattern, in quotes, its matches. A
    `.tar` is a webdataset shard, here or on a server (`s3://`, `gs://`, `https://`). A `.parquet`
    or `.csv` names a path in each row, a `.txt` in each line; relative paths are relative to that
    file. A name that occurs twice counts once.

    Args:
        column: Of tables; unset: the first of path, image and file that there is.

    Raises:
        InputError: If there is no such source, or no picture in it, or it lists URLs.
        SourceUnavailable: If a server does not answer.
    """
    by_name: dict[str, Picture] = {}
    pictures: Iterable[Picture]
    skipped: list[LedgerRow] = []
    for path in _files(source, storage or StorageConfig()):
        if not isinstance(path, Path) or path.suffix.lower() == ".tar":
            pictures, refused = pictures_of_shard(path)
            skipped += refused
        elif path.suffix.lower() in _TABLES:
            pictures = _named(_column(path, column), path.parent)
        elif path.suffix.lower() == ".txt":
            pictures = _named(_lines(path), path.parent)
        else:
            pictures = [Picture(_text(path), path)]
        for picture in pictures:
            by_name.setdefault(picture.name, picture)
    if not by_name:
        raise _no_picture(source)
    return list(by_name.values()), skipped


def require_source(source: str) -> None:
    """Refuse a SOURCE of this machine that is not there, or a folder without an image file; nothing
    is read.

    Raises:
        InputError: If it is none.
    """
    if "://" not in source and not _files(source, StorageConfig()):
        raise _no_picture(source)


def _no_picture(source: str) -> InputError:
    return InputError(
        f"{source}: holds no picture; give image files, shards (.tar), or a table or list of paths"
    )


def identity_of(pictures: Sequence[Picture]) -> str:
    """SHA-256 over names, places, sizes and times of change: equal where the same pictures are
    meant.
    """
    digest = hashlib.sha256()
    stamps: dict[ShardLocation, str] = {}
    for picture in pictures:
        path = picture.path
        if path not in stamps:
            try:
                stamps[path] = str(
                    outside_stamp(path) if isinstance(path, Path) else identify(path).digest
                )
            except OSError:
                stamps[path] = "missing"
        digest.update(f"{picture.name}\0{stamps[path]}\0{picture.offset}\n".encode())
    return digest.hexdigest()


def _files(source: str, storage: StorageConfig) -> Sequence[ShardLocation]:
    path = Path(source).expanduser()
    try:
        if "://" in source:
            check_shard_name(source)
            if not source.endswith(".tar"):
                raise InputError(f"{source}: of a server, give shards (.tar)")
            return server_of(source).find(source, storage, "SOURCE")
        if path.is_dir():
            return sorted(_images_below(path))
        if path.exists():
            return [path]
        patterns = expand(str(path))
    except ValueError as error:
        raise InputError(str(error)) from error
    # Not Path.glob: the whole path may be a pattern.
    matches = (sorted(glob(pattern, recursive=True)) for pattern in patterns)  # noqa: PTH207
    files = [path for path in map(Path, chain.from_iterable(matches)) if path.is_file()]
    if not files:
        raise InputError(
            f"{source}: no such folder or file, and no file matches it as a pattern; run where it "
            "is, or give an absolute path"
        )
    return files


def _images_below(folder: Path) -> Iterator[Path]:
    # Links to folders are not followed: they may lead out of it, or round in a circle.
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(place, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        )


def shards_of(source: str, storage: StorageConfig) -> Sequence[ShardLocation]:
    """The webdataset shards of a SOURCE, sorted, as every machine finds them.

    Raises:
        InputError: If it names anything else, or nothing.
        SourceUnavailable: If a server does not answer.
    """
    files = _files(source, storage)
    others = [path for path in files if isinstance(path, Path) and path.suffix.lower() != ".tar"]
    if others:
        raise InputError(f"{others[0]}: is no shard; --by-shard needs files that end with .tar")
    return [path.absolute() if isinstance(path, Path) else path for path in files]


def pictures_of_shard(path: ShardLocation) -> tuple[list[Picture], list[LedgerRow]]:
    """The pictures of a shard, and the members that are none.

    Raises:
        CorpusError: If it cannot be read.
    """
    index = index_shard(path)
    pictures = []
    skipped = [(f"{_text(path)}@{name}", reason, "") for name, reason in index.refused]
    for sample in index.samples:
        name = f"{_text(path)}@{sample.key}"
        if sample.image is None:
            skipped.append((name, "no_image", f"extensions {', '.join(sorted(sample.members))}"))
        else:
            pictures.append(Picture(name, path, sample.image.offset, sample.image.size_bytes))
    return pictures, skipped


def _named(names: Iterable[str], folder: Path) -> Iterator[Picture]:
    for name in filter(None, (text.strip() for text in names)):
        if "://" in name:
            raise InputError(
                f"{name}: pictures at URLs are not downloaded; download them, for example with "
                "img2dataset, and give the files or shards"
            )
        path = folder / Path(name).expanduser()
        yield Picture(_text(path), path)


def _lines(path: Path) -> list[str]:
    try:
        return read_bounded(path).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a list, one path in a line ({error})"
        ) from error


def _column(path: Path, column: str | None) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.csv as csv

    from react_pipeline.corpus import schema_of_table, text_batches

    is_csv = path.suffix.lower() == ".csv"
    try:
        with open_regular(path):
            names = (csv.open_csv(path).schema if is_csv else schema_of_table(path)).names
        chosen = column or next((name for name in _COLUMNS if name in names), None)
        if chosen is None or chosen not in names:
            raise InputError(
                f"{path}: no column {column or 'path'!r}; there are "
                f"{', '.join(map(repr, names[:20]))}: name the one with the pictures by --column"
            )
        # Text stays text: a file may be called 007.
        texts = csv.ConvertOptions(column_types={chosen: pa.string()}, include_columns=[chosen])
        rows = csv.open_csv(path, convert_options=texts) if is_csv else text_batches(path, [chosen])
        for batch in rows:
            yield from (text or "" for text in batch.column(0).cast(pa.string()).to_pylist())
    except (pa.ArrowException, OSError, CorpusError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})"
        ) from error


def _text(path: ShardLocation) -> str:
    # A name that is not UTF-8 fits into no table.
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")
