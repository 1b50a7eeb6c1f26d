"""Metadata of candidates: of the scratch of a build, or of the corpus.

Does not belong here: the fields that `where` names (`row_filter`).
"""

from pathlib import Path

import pandas as pd

from react_pipeline.embedding import row_metadata
from react_pipeline.store import Artifact, sealed

CANDIDATE_ROWS = "rows.parquet"
"""File of a scratch, with metadata that were read before."""


def candidate_metadata(
    embeddings: Artifact, rows: pd.Series, columns: list[str], scratch: Path
) -> pd.DataFrame:
    """As `row_metadata`; what is in `scratch` already is not read again."""
    path = scratch / CANDIDATE_ROWS
    if sealed(path.with_name(f"{CANDIDATE_ROWS}.done")) is not None:
        kept = pd.read_parquet(path)
        if {*columns} <= {*kept} and rows.isin(kept.index).all():
            return kept[columns].loc[rows.to_numpy()]
    return row_metadata(embeddings, rows, columns)
