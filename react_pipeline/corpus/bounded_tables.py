"""Parquet files of strangers, opened only if what they decode to can be bounded.

Compression and dictionaries make a file of 46 KB decode to gigabytes, and the sizes in its footer
need not be true. So the headers of all pages are read, which is what PyArrow decodes by. Does not
belong here: which columns there must be (`text_columns`).
"""

import errno
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.store import CorpusError, open_regular

MAX_FOOTER_BYTES = 64 << 20
MAX_PAGE_BYTES = 256 << 20
"""Decoded. Usual pages hold one MB, and an image may have as much."""
MAX_VALUES_PER_BYTE = 16
"""In one column, per byte of the file: URLs, paths and vectors differ from row to row."""
_PAGE_HEADER_BYTES = 1 << 16
_OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
_BINARY = 8
_STRUCT = 12


@contextmanager
def open_table(
    path: Path, columns: Sequence[str] | None = None, **options: Any
) -> Iterator[tuple[pq.ParquetFile, float]]:
    """A parquet file, and the most bytes that a row of a column takes, averaged over a page.

    Args:
        columns: Those to be read, whose pages are measured; None: all.
        options: As of `pyarrow.parquet.ParquetFile`.

    Raises:
        CorpusError: If the file is damaged, or decodes to too much.
    """
    with whole_table(path), open_regular(path) as file:
        _check_footer(path, file)
        with pq.ParquetFile(path, **options) as table:
            _check_count(path, table.metadata.num_rows)
            densest = 0.0
            for group in map(table.metadata.row_group, range(table.num_row_groups)):
                for chunk in map(group.column, range(group.num_columns)):
                    if columns is None or chunk.path_in_schema.split(".")[0] in columns:
                        _check_count(path, chunk.num_values)
                        densest = max(densest, _bytes_a_row(path, file, chunk))
            yield table, densest


def rows_of_table(path: Path) -> int:
    """Rows of a parquet file by its footer; errors as of `open_table`."""
    with open_table(path, ()) as (table, _):
        return int(table.metadata.num_rows)


def schema_of_table(path: Path) -> pa.Schema:
    """Schema of a parquet file; errors as of `open_table`."""
    with open_table(path, ()) as (table, _):
        return table.schema_arrow


@contextmanager
def whole_table(path: Path) -> Iterator[None]:
    """Report what is raised within where a table is cut or damaged.

    Raises:
        CorpusError: Naming the file.
    """
    try:
        yield
    except MemoryError as error:  # Arrow's own is one
        raise CorpusError(
            f"{path}: there is not enough memory to read it; end what else uses memory"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) in _OF_THE_MACHINE:
            raise
        words = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: the {path.suffix[1:]} file is truncated or damaged ({words}); copy it again"
        ) from error


def _check_footer(path: Path, file: BinaryIO) -> None:
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - 8))
    tail = file.read(8)
    footer_bytes = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 else 0
    if MAX_FOOTER_BYTES < footer_bytes < size_bytes:
        raise CorpusError(
            f"{path}: its footer has {footer_bytes:,} bytes, allowed are {MAX_FOOTER_BYTES:,}"
        )


def _check_count(path: Path, count: int) -> None:
    size_bytes = path.stat().st_size
    if count > MAX_VALUES_PER_BYTE * size_bytes:
        raise CorpusError(
            f"{path}: {size_bytes:,} bytes hold {count:,} values, which repeat each other; write "
            "each row once"
        )


def _bytes_a_row(path: Path, file: BinaryIO, chunk: Any) -> float:
    """Of the densest page of a column in a row group, whose pages are checked."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    densest = 0.0
    while start < end:
        file.seek(start)
        try:
            header, length = _read_struct(memoryview(file.read(_PAGE_HEADER_BYTES)), 0)
            decoded, encoded = int(header[2]), int(header[3])
            values = int((header.get(5) or header.get(8) or {}).get(1, 0))
        except (AttributeError, IndexError, KeyError, TypeError, struct.error) as error:
            raise OSError("a page has no header") from error
        if decoded > MAX_PAGE_BYTES or encoded < 0:
            raise CorpusError(
                f"{path}: a page of {chunk.path_in_schema} decodes to {decoded:,} bytes, allowed "
                f"are {MAX_PAGE_BYTES:,}; write it with smaller pages"
            )
        densest = max(densest, decoded / values if values else 0.0)
        start += length + encoded
    return densest


def _read_struct(data: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """A struct in Thrift's compact protocol: numbers and structs by field, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while mark := data[at]:
        at += 1
        kind = mark & 15
        if mark >> 4:
            number += mark >> 4
        else:
            value, at = _read_varint(data, at)
            number = (value >> 1) ^ -(value & 1)
        fields[number], at = _read_value(data, at, kind)
    return fields, at + 1


def _read_value(data: memoryview, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false are kinds
        return kind == 1, at
    if kind in (4, 5, 6):
        value, at = _read_varint(data, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        return None, at + length
    if kind == _STRUCT:
        return _read_struct(data, at)
    if kind in (3, 7):
        return None, at + (1 if kind == 3 else 8)
    # No header of a page holds a list, a set or a map.
    raise IndexError(kind)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
