"""Text columns of parquet files that somebody else wrote, in bounded memory.

Does not belong here: which columns there are, and what is made of their cells (`url_tables`, `ready_embeddings`).

A file keeps a repeated cell once, and a reader writes it out for each row: 30 KB in a file become 2 GB.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from react_pipeline.store import CorpusError

BATCH_ROWS = 65_536
MAX_BATCH_BYTES = 256 << 20
"""Text of as many rows; 4 KB a row."""


def text_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of text in their order, a batch of rows at a time, measured before they are decoded.

    Raises:
        CorpusError: If the text of a batch is longer than `MAX_BATCH_BYTES`.
    """
    with pq.ParquetFile(path, read_dictionary=list(columns)) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
            found = [batch.column(name) for name in columns]
            if (size_bytes := sum(map(_decoded_bytes, found))) > MAX_BATCH_BYTES:
                raise CorpusError(
                    f"{path}: {len(batch):,} rows of {', '.join(columns)} hold {size_bytes:,} bytes of text, allowed "
                    f"are {MAX_BATCH_BYTES:,}; take these rows out, or name other columns"
                )
            decoded = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in found]
            yield pa.RecordBatch.from_arrays(decoded, names=list(columns))


def _decoded_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
