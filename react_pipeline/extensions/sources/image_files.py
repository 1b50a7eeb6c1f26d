"""A corpus from images that are in no tar: folders with captions next to them, and parquet files
with images in them.

Folders are those of img2dataset's `files` (KEY.jpg, KEY.txt, KEY.json) and any like them; parquet
files are those of Hugging Face `datasets` (a struct of bytes and path) and img2dataset's `parquet`.
Does not belong here: the form of the shards (`corpus.shards`), which images and captions are usable
(`corpus.pairs`, when they are embedded).
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from react_pipeline.corpus import (
    IMAGE_EXTENSIONS,
    IMAGE_SUFFIXES,
    MAX_METADATA_BYTES,
    BadSample,
    PackedSample,
    Skipped,
    open_table,
    parse_fields,
    publish_pairs,
)
from react_pipeline.extensions.sources.kinds import Images
from react_pipeline.project import Project, escape_name, files_below, leads_out
from react_pipeline.store import (
    MAX_IMAGE_BYTES,
    Artifact,
    CorpusError,
    read_bounded,
    remembered_sha256,
    sha256_of,
)

_BATCH_ROWS = 1
"""A file keeps a repeated image once, and a batch holds it for each of its rows; 30 microseconds a
row.
"""
_KEPT_COLUMNS = ("url", "key", "uid")
_Pair = tuple[bytes, bytes, dict[str, str]]

MAX_CAPTION_BYTES = 1 << 20

_READ_SUFFIXES = frozenset(f".{extension}" for extension in IMAGE_EXTENSIONS)
_UNREAD_SUFFIXES = (
    IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jfif", ".jxl", ".svg"}
) - _READ_SUFFIXES


def publish_image_corpus(project: Project, config: Images) -> Artifact:
    """Publish the artifact `corpus` of kind `images`; its identity is the bytes and names of all
    files.

    Files: `shards/NNNNN.tar` (numbered keys, KEY.json with where it came from), and if files or
    rows were skipped `skipped.parquet` (source, reason). Everything is copied once, so that later
    steps know tars only.

    Raises:
        CorpusError: If a name finds nothing, a file is damaged or has no column of images or
            captions, or no pair is found.
    """
    sources = config.sources()
    content: list[Any] = []
    for source in sources:
        if source.is_dir():
            content += _list_content(source, config)
        else:
            content.append(
                [escape_name(source.name), remembered_sha256(project.store.root, source)]
            )

    return publish_pairs(project, content, _pairs(sources, config))


def _list_content(folder: Path, corpus: Images) -> list[list[str]]:
    """Name and digest of each file that may be in a pair; of an image in a format that is not read
    only the name.
    """
    content = []
    endings = (f".{corpus.caption_extension.lower()}", ".json")
    for path in files_below(folder):
        name = escape_name(path.relative_to(folder))
        suffix = path.suffix.lower()
        if suffix in _UNREAD_SUFFIXES:
            content.append([name])
        elif (suffix in _READ_SUFFIXES or path.name.lower().endswith(endings)) and not leads_out(
            path, folder
        ):
            content.append([name, sha256_of(path)])
    return content


def _pairs(sources: Sequence[Path], corpus: Images) -> Iterator[PackedSample | Skipped]:
    numbers = itertools.count()
    for source in sources:
        read = _read_folder if source.is_dir() else _read_table
        for pair in read(source, corpus):
            # Names of files and rows may repeat, or hold what no key may; numbers do not.
            yield pair if isinstance(pair, Skipped) else (f"{next(numbers):09d}", *pair)


def _read_folder(folder: Path, corpus: Images) -> Iterator[_Pair | Skipped]:
    for path in files_below(folder):
        if path.suffix.lower() in _UNREAD_SUFFIXES:
            yield _skipped(path, "format_not_read")
        if path.suffix.lower() not in _READ_SUFFIXES:
            continue
        caption = path.with_name(f"{path.stem}.{corpus.caption_extension}")
        fields = {}
        with suppress(BadSample):  # there is none, or it is not usable
            metadata = _read(path.with_suffix(".json"), folder, MAX_METADATA_BYTES)
            fields = parse_fields(metadata) or {}
        try:
            image = _read(path, folder, MAX_IMAGE_BYTES, "no_image")
            text = _read(caption, folder, MAX_CAPTION_BYTES)
        except BadSample as error:
            yield _skipped(path, error.reason)
        else:
            yield image, text, {**fields, "path": escape_name(path.relative_to(folder))}


def _read(path: Path, folder: Path, limit_bytes: int, missing: str = "no_caption") -> bytes:
    """Read a file of a folder.

    Raises:
        BadSample: If there is none, it is too large, or a link that leads out of the folder: its
            author could have any file of this machine copied into the corpus.
    """
    if leads_out(path, folder):
        raise BadSample("link_out_of_folder")
    if not path.is_file():
        raise BadSample(missing)
    if path.stat().st_size > limit_bytes:
        raise BadSample("too_many_bytes")
    return read_bounded(path, limit_bytes)


def _read_table(path: Path, corpus: Images) -> Iterator[_Pair | Skipped]:
    with open_table(path) as file:
        image = _image_column(path, file.schema_arrow)
        if corpus.caption_column not in file.schema_arrow.names:
            raise CorpusError(
                f"{path}: no column {corpus.caption_column!r} (there: "
                f"{', '.join(file.schema_arrow.names[:20])}); name it in corpus.caption_column"
            )
        kept = [name for name in _KEPT_COLUMNS if name in file.schema_arrow.names]
        for number, batch in enumerate(
            file.iter_batches(_BATCH_ROWS, columns=[image, corpus.caption_column, *kept])
        ):
            (row,) = batch.to_pylist()
            place = f"row {number} of "
            data = row[image]
            caption = row[corpus.caption_column]
            data = data["bytes"] if isinstance(data, dict) else data
            # Of several captions the first; paths in a table may name any file of this machine: not
            # followed.
            caption = next(iter(caption), None) if isinstance(caption, list) else caption
            if not data or not caption:
                yield _skipped(path, "no_caption" if data else "no_image", place)
            elif len(data) > MAX_IMAGE_BYTES:
                yield _skipped(path, "too_many_bytes", place)
            else:
                about = {name: str(row[name]) for name in kept if row[name] is not None}
                yield data, str(caption).encode(), {"path": place + escape_name(path.name), **about}


def _skipped(path: Path, reason: str, place: str = "") -> Skipped:
    return Skipped("", reason, source=place + escape_name(path))


def _image_column(path: Path, schema: pa.Schema) -> str:
    for column in schema:
        kind = column.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(column.name)
        if column.name in (*IMAGE_EXTENSIONS, "image") and (
            pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            return str(column.name)
    raise CorpusError(
        f"{path}: no column of images (a struct with `bytes`, or bytes named "
        f"{', '.join(IMAGE_EXTENSIONS)} or image); there are {', '.join(schema.names[:20])}"
    )
