"""Tables of URLs and captions: parquet files read in batches, unusable rows counted by reason.

Belongs here: finding the tables, their columns and types, which rows can be used. Does not belong here: fetching
(`downloads`), shards (`url_corpus`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus.local_files import find_files
from react_pipeline.store import CorpusError

_BATCH_ROWS = 65_536


class UrlRow(NamedTuple):
    """A usable row. `key` is a digest of URL and caption: 32 hexadecimal digits, the sample's key in the shards."""

    key: str
    url: str
    caption: str


def find_tables(patterns: Iterable[str]) -> list[Path]:
    """The parquet files of absolute paths and patterns, as `find_files`.

    Raises:
        CorpusError: Naming the pattern that finds no parquet file.
    """
    return find_files(patterns, ".parquet", "corpus.urls")


def read_rows(paths: Iterable[Path], url_column: str, caption_column: str, skipped: Counter[str]) -> Iterator[UrlRow]:
    """The usable rows of all tables in their order; of equal URLs the first.

    Blanks around URL and caption are cut. `skipped` counts the others: `no_url`, `no_caption`, `not_utf8`,
    `duplicate_url`. To know duplicates, about 160 bytes a row are held in memory.

    Raises:
        CorpusError: Naming the file, if it is no whole parquet file, lacks a column, or a column holds no text.
    """
    seen: set[bytes] = set()
    for path in paths:
        for raw_url, raw_caption in _cells(path, url_column, caption_column):
            url, caption = _text(raw_url), _text(raw_caption)
            if url is None or caption is None:
                skipped["not_utf8"] += 1
            elif not url:
                skipped["no_url"] += 1
            elif not caption:
                skipped["no_caption"] += 1
            else:
                digest = hashlib.sha256(url.encode())
                if (known := digest.digest()[:16]) in seen:
                    skipped["duplicate_url"] += 1
                    continue
                seen.add(known)
                # No URL holds a NUL, so no other pair of texts gives the same bytes.
                digest.update(b"\0" + caption.encode())
                yield UrlRow(digest.hexdigest()[:32], url, caption)


def _cells(path: Path, *columns: str) -> Iterator[tuple[bytes | None, ...]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                yield from zip(*(_bytes(batch.column(name)) for name in columns), strict=True)
    except (pa.ArrowException, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise CorpusError(f"{path}: no whole parquet file ({words}); copy it again") from error


def _check_columns(path: Path, schema: pa.Schema, columns: tuple[str, ...]) -> None:
    for name, field in zip(columns, ("url_column", "caption_column"), strict=True):
        if schema.names.count(name) != 1:
            raise CorpusError(
                f"{path}: no column {name!r}; there are {', '.join(map(repr, schema.names[:20])) or 'none'}: set "
                f"`corpus.{field}`"
            )
        kind = schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
            raise CorpusError(f"{path}: column {name!r} holds {kind}, not text; write it as strings")


def _bytes(column: pa.Array) -> list[bytes | None]:
    # As bytes: a parquet file may call text what is no UTF-8, and one such cell must not stop the file.
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    cells: list[bytes | None] = column.cast(kind).to_pylist()
    return cells


def _text(cell: bytes | None) -> str | None:
    """Without blanks around it; "" for a null, None if it is no UTF-8."""
    try:
        return (cell or b"").decode().strip()
    except UnicodeDecodeError:
        return None
