"""Parquet tables of the user: opened with one error for what is damaged, and columns of text read
in batches.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.store import CorpusError, open_regular

_OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
BATCH_ROWS = 8_192
"""A file keeps a repeated cell once, and a batch holds it for each of its rows."""


@contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file.

    Raises:
        CorpusError: If it is damaged; also while it is read within.
    """
    with whole_table(path), open_regular(path), pq.ParquetFile(path) as table:
        yield table


def rows_of_table(path: Path) -> int:
    """Return the rows of a parquet file by its footer; errors as of `open_table`."""
    with open_table(path) as table:
        return int(table.metadata.num_rows)


def schema_of_table(path: Path) -> pa.Schema:
    """Return the schema of a parquet file; errors as of `open_table`."""
    with open_table(path) as table:
        return table.schema_arrow


@contextmanager
def whole_table(path: Path) -> Iterator[None]:
    """Report what is raised within where a table is cut or damaged.

    Raises:
        CorpusError: Naming the file.
        MemoryError: If memory does not suffice, whatever the file.
    """
    try:
        yield
    except MemoryError:  # also pyarrow's, which is one of `ArrowException` too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) in _OF_THE_MACHINE:
            raise
        words = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: the {path.suffix[1:]} file is truncated or damaged ({words}); copy it again"
        ) from error


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
        if value not in (pa.string(), pa.large_string()):
            raise CorpusError(
                f"{path}: column {name!r} holds {kind}, text is needed (`corpus.{field}`)"
            )


def text_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of text in their order, a batch of rows at a time, as `open_table`."""
    with open_table(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
            texts = [batch.column(name).cast(pa.large_string()) for name in columns]
            yield pa.RecordBatch.from_arrays(texts, names=list(columns))
