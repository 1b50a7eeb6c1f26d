"""Metadata of candidates: of the scratch of a build, or of the corpus.

Does not belong here: the fields that `where` names (`row_filter`).
"""

import pandas as pd

from react_pipeline.embedding import row_metadata
from react_pipeline.store import Artifact, Scratch

CANDIDATE_ROWS = "rows.parquet"
"""File of a scratch, with metadata that were read before."""


def candidate_metadata(
    embeddings: Artifact, rows: pd.Series, columns: list[str], scratch: Scratch
) -> pd.DataFrame:
    """As `row_metadata`; what is in `scratch` already is not read again."""
    path = scratch.folder / CANDIDATE_ROWS
    if path.exists():
        kept = pd.read_parquet(path)
        if {*columns} <= {*kept} and rows.isin(kept.index).all():
            return kept[columns].loc[rows.to_numpy()]
    return row_metadata(embeddings, rows, columns)
