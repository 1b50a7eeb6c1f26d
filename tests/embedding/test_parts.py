"""A corpus of many small parts: read row by row with few files open, whatever was recorded of them
and in any order.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from support.vectors import read_vectors, vector_files

from react_pipeline.embedding.vectors import StoredVectors, read_metadata, row_metadata
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.store import Store

PARTS, WIDTH = 1_200, 4
COLUMNS = ["caption", "image_path"]
LENGTHS = np.random.default_rng(0).integers(0, 5, PARTS).tolist()


def expected(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors that tell the row; half precision keeps them."""
    vectors = np.zeros((len(rows), WIDTH), np.float32)
    vectors[:, 0], vectors[:, 1] = np.divmod(rows, 1_000)
    return vectors


def write_corpus(store: Path, lengths: Sequence[int]) -> Artifact:
    """Embeddings as `embed` lays them out, one part a group; row n has the vectors `expected` and
    caption "n".
    """

    def write(path: Path, _: object) -> dict[str, int]:
        row = 0
        for folder in ("img_emb", "metadata"):
            (path / folder).mkdir(parents=True)
        for number, length in enumerate(lengths):
            if not length:
                continue
            rows = np.arange(row, row + length)
            np.save(path / f"img_emb/img_emb_{number:04}.npy", expected(rows).astype(np.float16))
            columns = {"image_path": [f"key{n}" for n in rows], "caption": rows.astype(str)}
            metadata = path / f"metadata/metadata_{number:04}.parquet"
            pd.DataFrame(columns).to_parquet(metadata, row_group_size=2)
            row += length
        groups = "".join(f'{{"rows": {length}}}\n' for length in lengths)
        (path / "groups.jsonl").write_text(groups)
        return {"rows": row, "dimension": WIDTH}

    return Store(store).build(Inputs("corpus_embeddings", "all", {}, {}, "1"), write)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_corpus(tmp_path_factory.mktemp("store"), LENGTHS)


@pytest.fixture
def few_files() -> Iterator[None]:
    """This process may open hardly more files than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 24, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_more_parts_than_a_process_may_open_are_read(corpus: Artifact) -> None:
    total = sum(LENGTHS)
    rows = np.random.default_rng(1).integers(total, size=500)
    assert np.array_equal(StoredVectors(corpus, "image").take(pd.Series(rows)), expected(rows))
    assert row_metadata(corpus, rows, ["caption"])["caption"].tolist() == rows.astype(str).tolist()
    assert np.array_equal(read_vectors(corpus, "image"), expected(np.arange(total)))
    captions = read_metadata(corpus, ["caption"])["caption"]
    assert captions.tolist() == [*map(str, range(total))]


def test_embeddings_rebuilt_at_the_same_place_are_others(tmp_path: Path) -> None:
    first = write_corpus(tmp_path, [3, 3])
    assert len(vector_files(first, "image")) == 2
    first.path.parent.rename(tmp_path / "removed")
    second = write_corpus(tmp_path, [1, 4, 1])
    assert second.address == first.address and len(vector_files(second, "image")) == 3
    assert np.array_equal(read_vectors(second, "image"), expected(np.arange(6)))
    assert row_metadata(second, [1, 5], ["caption"])["caption"].tolist() == ["1", "5"]


@pytest.mark.parametrize("row", [-1, 6])
def test_rows_that_do_not_exist_are_an_error(tmp_path: Path, row: int) -> None:
    artifact = write_corpus(tmp_path, [3, 3])
    with pytest.raises(IndexError, match="a corpus of 6"):
        StoredVectors(artifact, "image").take([0, row])
    with pytest.raises(IndexError, match="a corpus of 6"):
        row_metadata(artifact, [0, row], ["caption"])
    assert list(row_metadata(artifact, [], ["caption"]).columns) == ["caption"]
