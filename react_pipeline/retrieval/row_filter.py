"""Row filter: `where`, one SQL expression over the fields that the pairs of a corpus bring.

DuckDB evaluates it on the rows that are candidates, not on the whole corpus. Does not belong here:
the other reasons to drop a candidate (`ranking`).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import Rows, field_names, row_metadata
from react_pipeline.store import Artifact, InputError

SAMPLED_ROWS = 10_000

MAX_NAMED = 40
"""Fields that an error lists."""

_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"


def passes(embeddings: Artifact, rows: Rows, where: str) -> NDArray[np.bool_]:
    """Mask (N,) of the rows for which the expression is true; a missing field counts as false.

    A field of texts that are all numbers in the first rows of the corpus is compared as a number;
    a text of it that is none is missing.

    Raises:
        InputError: If the expression is wrong, or names a field that no pair has.
    """
    import duckdb

    there = list(field_names(embeddings))
    names = [name for name in there if name in where.replace('""', '"')]
    pairs = row_metadata(embeddings, rows, names).reset_index(drop=True).replace("", None)
    sample = row_metadata(embeddings, sampled_rows(embeddings), names).replace("", None)
    for name in names:
        texts = sample[name].dropna()
        if texts.dtype == object and len(texts) and texts.astype(str).str.fullmatch(_NUMBER).all():
            pairs[name] = pd.to_numeric(pairs[name], errors="coerce")
    pairs["row number of the candidates"] = pairs.index
    # An expression may read no file, and no other table than this one.
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.register("pairs", pairs)
        query = (
            # On a line of its own, it may end in a comment.
            f"SELECT coalesce(CAST(\n{where}\nAS BOOLEAN), false) FROM pairs "  # noqa: S608
            'ORDER BY "row number of the candidates"'
        )
        try:
            answers = connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            # What follows names columns of this query, and shows it.
            problem = re.split(r"\s*(?:Candidate bindings|LINE \d+):", str(error))[0]
            problem = problem.removeprefix("Binder Error: ")
            raise InputError(
                f"retrieval.where: {where!r}: {' '.join(problem.split())}; fields of the corpus: "
                f"{', '.join(there[:MAX_NAMED])}"
            ) from error
    if [len(answer) for answer in answers.values()] != [len(rows)]:
        raise InputError(
            f"retrieval.where: {where!r}: must give one value per row; do not use aggregates"
        )
    (answer,) = answers.values()
    return np.asarray(answer, bool)


def sampled_rows(embeddings: Artifact) -> Rows:
    """The first rows (N,) of a corpus. They decide whether a field holds numbers, alike for every
    set, and whether an expression can be evaluated at all.
    """
    return np.arange(min(int(embeddings.counts["rows"]), SAMPLED_ROWS))
