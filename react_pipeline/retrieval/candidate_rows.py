"""Metadata of candidates: of a pass that read it for several domains, or of the corpus.

Does not belong here: the fields that `where` names (`row_filter`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from react_pipeline.embedding import Rows, row_metadata
from react_pipeline.indexing import write_once
from react_pipeline.store import Artifact, sealed

_KEPT = "rows.parquet"


def candidate_metadata(
    embeddings: Artifact, rows: pd.Series, columns: list[str], scratch: Path
) -> pd.DataFrame:
    """As `row_metadata`; what `keep_metadata` left in `scratch` is not read again."""
    path = scratch / _KEPT
    if sealed(path.with_name(f"{_KEPT}.done")) is not None:
        kept = pd.read_parquet(path)
        if {*columns} <= {*kept} and rows.isin(kept.index).all():
            return kept[columns].loc[rows.to_numpy()]
    return row_metadata(embeddings, rows, columns)


def keep_metadata(
    embeddings: Artifact, rows: Sequence[Rows], columns: list[str], scratches: Sequence[Path]
) -> None:
    """Read the metadata of the rows of several domains at once, and leave each its own.

    A column is left out where a value is missing: its type would depend on the rows that are read.
    """
    table = row_metadata(embeddings, np.unique(np.concatenate(rows)), columns)
    whole = [name for name in columns if table[name].notna().all()]
    texts = [name for name in columns if pd.api.types.infer_dtype(table[name]) == "string"]
    for scratch, mine in zip(scratches, rows, strict=True):
        part = table.loc[mine, list({**dict.fromkeys(whole), **dict.fromkeys(texts)})]
        part = part[[name for name in part if part[name].notna().all()]]
        write_once(scratch / _KEPT, part.to_parquet)
