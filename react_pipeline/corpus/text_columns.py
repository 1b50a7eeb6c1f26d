"""Text columns of tables that somebody else wrote: that they are there, and reading them in bounded
memory.

A file keeps a repeated cell once, and a reader writes it out for each row: 30 KB in a file become 2
GB.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from react_pipeline.corpus.bounded_tables import open_table
from react_pipeline.store import CorpusError

BATCH_ROWS = 65_536
MAX_BATCH_BYTES = 192 << 20
"""Text of as many rows; 3 KB a row."""
MAX_TABLE_BYTES = 256 << 20
MAX_TABLE_ROWS = 4_000_000


def require_text_columns(path: Path, schema: pa.Schema, columns: Iterable[tuple[str, str]]) -> None:
    """Require of each name one column of text; names come with the field of `corpus` that sets
    them.

    Raises:
        CorpusError: Naming file, column and field.
    """
    for field, name in columns:
        if schema.names.count(name) != 1:
            there = ", ".join(map(repr, schema.names[:20])) or "none"
            raise CorpusError(
                f"{path}: no column {name!r}; there are {there}: set `corpus.{field}`"
            )
        kind = schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
            raise CorpusError(
                f"{path}: column {name!r} holds {kind}, text is needed (`corpus.{field}`)"
            )


def text_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of text in their order, a batch of rows at a time, measured before they are decoded.

    Raises:
        CorpusError: If the file is damaged, or the text of a batch is longer than
            `MAX_BATCH_BYTES`.
    """
    with open_table(path, columns, read_dictionary=list(columns)) as (file, densest):
        # Cells that are written out come into memory before they are measured.
        rows = int(min(BATCH_ROWS, max(1, 2 * MAX_BATCH_BYTES / max(densest, 1))))
        for batch in file.iter_batches(rows, columns=list(columns)):
            texts = [batch.column(name) for name in columns]
            if (size_bytes := sum(map(_decoded_bytes, texts))) > MAX_BATCH_BYTES:
                raise CorpusError(
                    f"{path}: {len(batch):,} rows of {', '.join(columns)} hold {size_bytes:,} "
                    "bytes of text, allowed "
                    f"are {MAX_BATCH_BYTES:,}; take these rows out, or name other columns"
                )
            decoded = [
                one.dictionary_decode() if pa.types.is_dictionary(one.type) else one
                for one in texts
            ]
            yield pa.RecordBatch.from_arrays(decoded, names=list(columns))


def read_text_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of text as a whole, at most `MAX_TABLE_BYTES` and `MAX_TABLE_ROWS`; errors as of
    `text_batches`.
    """
    batches = []
    size_bytes = 0
    rows = 0
    for batch in text_batches(path, columns):
        batches.append(batch)
        size_bytes += batch.nbytes
        rows += batch.num_rows
        if size_bytes > MAX_TABLE_BYTES or rows > MAX_TABLE_ROWS:
            raise CorpusError(
                f"{path}: more than {MAX_TABLE_ROWS:,} rows or {MAX_TABLE_BYTES:,} bytes; divide "
                "it into several tables"
            )
    return pa.Table.from_batches(batches, None if batches else pa.schema([]))


def _decoded_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
