"""Row filter: `where`, an expression in SQL over the fields that the pairs of a corpus bring.

DuckDB evaluates it on the rows that are candidates, not on the whole corpus. Does not belong here:
the other reasons to drop a candidate (`ranking`).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import has_field, row_metadata
from react_pipeline.store import Artifact, InputError

_TEXT = re.compile(r"'(?:[^']|'')*'")
_NAME = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_]\w*)')


def passes(embeddings: Artifact, rows: NDArray[np.int64], where: str) -> NDArray[np.bool_]:
    """Of which rows (N,) the expression is true; where a field is missing it is not.

    A field whose values on these rows are all numbers is compared as a number.

    Raises:
        InputError: If the expression is wrong, or names a field that no pair has.
    """
    import duckdb

    if not len(rows):
        return np.zeros(0, bool)
    names = [name for name in _names_in(where) if has_field(embeddings, name)]
    fields = row_metadata(embeddings, pd.Series(rows), names).reset_index(drop=True)
    pairs = pd.DataFrame({name: _typed(fields[name]) for name in names}, index=fields.index)
    pairs["row number of the candidates"] = pairs.index
    # An expression may read no file, and no other table than this one.
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.register("pairs", pairs)
        query = (
            f"SELECT coalesce(CAST(({where}) AS BOOLEAN), false) FROM pairs "  # noqa: S608
            'ORDER BY "row number of the candidates"'
        )
        try:
            answers = connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            problem = " ".join(str(error).split("LINE 1")[0].split())
            raise InputError(
                f"retrieval.where: {where!r}: {problem}; fields here: {', '.join(names) or 'none'}"
            ) from error
    (answer,) = answers.values()
    if len(answer) != len(rows):
        raise InputError(f"retrieval.where: {where!r}: has no answer for each row; compare fields")
    return np.asarray(answer, bool)


def _names_in(where: str) -> list[str]:
    """The names in an expression that may be fields, in order; in quotes are texts."""
    import duckdb

    with duckdb.connect() as connection:
        words = connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()
    keywords = {word for (word,) in words}
    names = [
        quoted.replace('""', '"') if quoted else plain
        for quoted, plain in _NAME.findall(_TEXT.sub("", where))
        if quoted or plain.lower() not in keywords
    ]
    return list(dict.fromkeys(names))


def _typed(values: pd.Series) -> pd.Series:
    """Texts as numbers, where all that are there are numbers."""
    texts = values.replace("", None)
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers if numbers.notna().equals(texts.notna()) and texts.notna().any() else texts
