"""Row filters: which pairs an expression lets through, and what becomes of a wrong one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.retrieval import configure, pairs_of

from react_pipeline.embedding import row_metadata
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, retrieve_pairs, review
from react_pipeline.retrieval.review import passes
from react_pipeline.store import InputError, RetrievalError

FIELDS = pd.DataFrame(
    {
        "width": ["100", "300", None, "256"],
        "license": ["cc-by", "cc0", "cc-by", "all rights"],
        "nsfw": ["UNLIKELY", "UNLIKELY", "UNLIKELY", "NSFW"],
        "order": ["a", "b", "c", "d"],
        "language": ["en", "de", "en", None],
        "code": ["007", "7", "1e3", "1000"],
    }
)


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "field_names", lambda _: list(FIELDS))
    monkeypatch.setattr(review, "row_metadata", lambda _, *place: FIELDS.loc[place])


def rows_of(where: str, rows: tuple[int, ...] = (0, 1, 2, 3)) -> list[int]:
    corpus: Any = SimpleNamespace(counts={"rows": len(FIELDS)})
    answer = passes(corpus, np.array(rows), where)
    return [row for row, passed in zip(rows, answer, strict=True) if passed]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("nsfw = 'UNLIKELY' and width >= 256 and license like 'cc%'", [1]),
        ("width >= 100", [0, 1, 3]),
        ("width is null", [2]),
        ("license = 'and width'", []),
        ("\"order\" in ('a', 'd')", [0, 3]),
        ("not (nsfw = 'NSFW')", [0, 1, 2]),
        ("true -- all of them", [0, 1, 2, 3]),
        ("language = 'en'", [0, 2]),
        ("code = '7'", [1]),
    ],
)
def test_rows_pass_where_the_expression_is_true(where: str, rows: list[int]) -> None:
    assert rows_of(where) == rows
    # A field is a number whatever rows are asked of.
    assert [rows_of(where, (row,)) for row in rows] == [[row] for row in rows]


@pytest.mark.parametrize(
    "where",
    [
        "height > 3",
        "width >",
        "max(width) > 3",
        "true) FROM pairs; DROP TABLE pairs; --",
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "license, width",
        "width > 3 or columns('.*')",
        "true) FROM pairs; SELECT (true",
    ],
)
def test_a_wrong_expression_is_one_error(where: str) -> None:
    for rows in ((0, 1, 2, 3), ()):
        with pytest.raises(InputError, match=r"retrieval\.where"):
            rows_of(where, rows)


def test_both_sets_hold_what_passes_alone(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    configure(retrieved_project, where="nubmer > 3")
    with pytest.raises(InputError, match=r"nubmer.* fields of the corpus: .*\bnumber\b"):
        retrieve_pairs(retrieved_project, "shapes")
    configure(retrieved_project, where="number < 0")
    with pytest.raises(RetrievalError, match=r"filtered.*`where`"):
        retrieve_pairs(retrieved_project, "shapes")
    before = resolve(retrieved_project, "retrieved_set", "shapes").fingerprint
    configure(retrieved_project, where="number % 2 = 0")
    assert resolve(retrieved_project, "retrieved_set", "shapes").fingerprint != before
    embeddings = retrieved_project.store.current("corpus_embeddings", "all")
    for make in (retrieve_pairs, draw_control):
        artifact = make(retrieved_project, "shapes")
        rows = pairs_of(artifact)["row"]
        numbers = row_metadata(embeddings, rows, ["number"])["number"].astype(int)
        assert len(numbers) and not (numbers % 2).any()
        assert artifact.counts["dropped"]["filtered"] > 0
