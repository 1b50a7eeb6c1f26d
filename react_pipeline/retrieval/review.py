"""Review: what the decisions of people do to the candidates of a domain.

A refused image is dropped for every class, and the next best candidate takes its place. What a
domain's `where` is not true of is dropped, too: DuckDB evaluates it on the rows that are
candidates, not on the whole corpus.

Does not belong here: the file of decisions (`project.review`), the other reasons to drop a
candidate (`ranking`).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import Rows, field_names, row_metadata
from react_pipeline.project import Project, current_decisions, takedown_file, taken_down
from react_pipeline.retrieval.decontamination import KeptOut
from react_pipeline.retrieval.images import Images
from react_pipeline.store import Artifact, InputError, RetrievalError

SAMPLED_ROWS = 10_000
MAX_NAMED = 40
"""Fields that an error lists."""
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"


def rejected_images(project: Project, slug: str) -> set[str]:
    """Return the digests and URLs of the images that people rejected for a domain."""
    decisions = current_decisions(project, slug).values()
    return {key for one in decisions for key in (one.image, one.url) if key}


def refuse_rows(
    candidates: pd.DataFrame, images: Images, kept_out: KeptOut, where: str | None
) -> pd.DataFrame:
    """Return candidates with what identifies their images, dropped where people refused the image,
    by the digest or URL that the corpus brings, or `where` is not true of the row.
    """
    rows = candidates["row"].drop_duplicates()
    columns = [images.source.identity, *kept_out.row_columns]
    candidates = candidates.join(row_metadata(images.embeddings, rows, columns), on="row")
    if "image_sha256" not in candidates:
        candidates["image_sha256"] = ""
    if kept_out.refused:
        refused = _refused_rows(images.embeddings, candidates["row"], kept_out)
        candidates.loc[refused & (candidates["dropped"] == ""), "dropped"] = "rejected"
    if where is not None:
        still = candidates["dropped"] == ""
        rows = candidates.loc[still, "row"].unique()
        wrong = rows[~passes(images.embeddings, rows, where)]
        candidates.loc[still & candidates["row"].isin(wrong), "dropped"] = "filtered"
    return candidates


def _refused_rows(embeddings: Artifact, rows: pd.Series, kept_out: KeptOut) -> NDArray[np.bool_]:
    known = row_metadata(embeddings, rows, ["image_sha256", "url"])
    return kept_out.refuses(known).to_numpy(bool)


def passes(embeddings: Artifact, rows: Rows, where: str) -> NDArray[np.bool_]:
    """Return for which rows (N,) an SQL expression over the fields of the corpus is true, by
    DuckDB; a missing field counts as false.

    A field of texts that are all numbers in the first rows of the corpus is compared as a number;
    a text of it that is none is missing.

    Raises:
        InputError: If the expression is wrong, or names a field that no pair has.
    """
    import duckdb

    there = list(field_names(embeddings))
    names = [name for name in there if name in where.replace('""', '"')]
    pairs = row_metadata(embeddings, rows, names).reset_index(drop=True).replace("", None)
    # The first rows decide whether a field holds numbers, alike for every set, and whether the
    # expression can be evaluated at all.
    first = np.arange(min(int(embeddings.counts["rows"]), SAMPLED_ROWS))
    sample = row_metadata(embeddings, first, names).replace("", None)
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


def require_none_taken_down(
    project: Project, images: Images, kept_out: KeptOut, pairs: pd.DataFrame
) -> None:
    """Refuse to publish pairs of which one was taken down while they were chosen and collected.

    Raises:
        RetrievalError: If there is one.
    """
    now = replace(kept_out, refused=taken_down(project))
    late = now.refuses(pairs) | _refused_rows(images.embeddings, pairs["row"], now)
    if late.any():
        raise RetrievalError(
            f"{takedown_file(project)}: {int(late.sum())} of these pairs were taken down while the "
            "set was made, so nothing was published; run it again"
        )
