"""Reading vectors and metadata of chosen rows, out of several files and row groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.vectors import read_vectors

from react_pipeline.embedding.vectors import read_metadata, row_metadata, vectors_of
from react_pipeline.project.project import Project


def test_chosen_rows_in_any_order_equal_those_of_the_whole(
    indexed_project: Project,
) -> None:
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    rows = pd.Series([95, 3, 3, 40, 0])
    whole = read_metadata(artifact)
    pd.testing.assert_frame_equal(
        row_metadata(artifact, rows, ["caption", "shard"]), whole.loc[rows, ["caption", "shard"]]
    )
    assert np.array_equal(
        vectors_of(artifact, "image", rows), read_vectors(artifact, "image")[rows]
    )


def test_no_rows_give_an_empty_table(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    assert list(row_metadata(artifact, [], ["caption"]).columns) == ["caption"]


@pytest.mark.parametrize("row", [-1, 96])
def test_rows_that_do_not_exist_are_an_error(indexed_project: Project, row: int) -> None:
    with pytest.raises(IndexError, match="a corpus of 96"):
        row_metadata(
            indexed_project.store.current("corpus_embeddings", "all"), [0, row], ["caption"]
        )


def test_only_row_groups_that_hold_a_row_are_read(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    read = []
    original = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, columns: list[str] | None = None) -> object:
        read.append((group, columns))
        return original(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    row_metadata(artifact, [1, 0], ["caption"])
    assert read == [(0, ["caption"])]
