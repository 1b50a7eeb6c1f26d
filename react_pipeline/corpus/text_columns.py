"""Text columns of tables that somebody else wrote: that they are there, and reading them in bounded
memory.

A file keeps a repeated cell once, and a reader writes it out for each row: 30 KB in a file become 2
GB.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from react_pipeline.store import CorpusError

BATCH_ROWS = 65_536
MAX_BATCH_BYTES = 256 << 20
"""Text of as many rows; 4 KB a row."""


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
    with whole_table(path), pq.ParquetFile(path, read_dictionary=list(columns)) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
            found = [batch.column(name) for name in columns]
            if (size_bytes := sum(map(_decoded_bytes, found))) > MAX_BATCH_BYTES:
                raise CorpusError(
                    f"{path}: {len(batch):,} rows of {', '.join(columns)} hold {size_bytes:,} "
                    "bytes of text, allowed "
                    f"are {MAX_BATCH_BYTES:,}; take these rows out, or name other columns"
                )
            decoded = [
                one.dictionary_decode() if pa.types.is_dictionary(one.type) else one
                for one in found
            ]
            yield pa.RecordBatch.from_arrays(decoded, names=list(columns))


@contextmanager
def whole_table(path: Path) -> Iterator[None]:
    """Report what is raised within where a table is cut or damaged.

    Raises:
        CorpusError: Naming the file.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: the {path.suffix[1:]} file is truncated or damaged ({words}); copy it again"
        ) from error


def _decoded_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
