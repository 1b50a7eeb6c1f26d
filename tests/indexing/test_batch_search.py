"""Searching all queries at once finds what searching them one by one finds, whatever the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.embedding import StoredVectors
from react_pipeline.indexing import (
    Index,
    build_index,
    build_side,
    cell_hits,
    draw_queries,
    exact_hits,
    find_rows,
    read_index,
    search,
    search_all,
)
from react_pipeline.indexing import index as index_module
from react_pipeline.indexing.search import has_whole_cells
from react_pipeline.project import Project
from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError, Scratch

ROWS, WIDTH, FILE_ROWS = 6_000, 64, 1_700
Stored = Callable[[np.ndarray], StoredVectors]


def corpus(kind: str) -> np.ndarray:
    """Vectors in half precision, as they are stored."""
    vectors = np.concatenate([images for images, _ in Cloud(ROWS, WIDTH).pairs()])
    if kind == "duplicates":
        vectors[500:900] = vectors[499]
        vectors[5_000:] = vectors[:1_000]
    if kind == "alike":  # a product in a fast type cannot tell them apart
        noise = np.random.default_rng(3).standard_normal((ROWS, WIDTH))
        vectors = vectors[0] + 1e-2 * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def expected(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities in double precision, rounded; equal ones by row."""
    products = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, rows, axis=1), rows


@pytest.fixture
def stored(make_project: Callable[..., Project]) -> Stored:
    """Publishes vectors in files of `FILE_ROWS`."""
    project = make_project()
    publish_parents(project, 0)

    def publish(vectors: np.ndarray) -> StoredVectors:
        files = [vectors[start : start + FILE_ROWS] for start in range(0, len(vectors), FILE_ROWS)]
        embeddings = publish_embeddings(project, zip(files, files, strict=True), WIDTH)
        return StoredVectors(embeddings, "image")

    return publish


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project(index={"key": "IVF32,SQfp16", "recall_queries": 40})
    publish_parents(project, 0)
    publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(FILE_ROWS), WIDTH)
    return project


@pytest.mark.parametrize("kind", ["clustered", "duplicates", "alike"])
def test_hits_are_those_of_all_comparisons_in_every_precision(stored: Stored, kind: str) -> None:
    vectors, asked = corpus(kind), Cloud(ROWS, WIDTH).prompts(10, 30)
    if kind == "duplicates":
        asked[0] = vectors[499]  # one of 401 equal rows
    if kind == "alike":
        asked = vectors[:300].astype(np.float32)
    published = stored(vectors)
    for precision in ("fp32", "bf16", "fp16"):
        for queries, k in ((1, 1), (300, 10)):
            found = exact_hits(published, asked[:queries], k, precision=precision)
            for one, wanted in zip(found, expected(asked[:queries], vectors, k), strict=True):
                np.testing.assert_array_equal(one, wanted)


def test_memory_is_bounded_where_very_many_rows_are_alike(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, kept, own = corpus("alike"), [], search._near_best
    monkeypatch.setattr(search, "MOST_ALIKE", 300)
    monkeypatch.setattr(search, "_SPARE_PAIRS", 1_000)

    def counted(*args: Any) -> Any:
        found = own(*args)
        kept.append(len(found[0]))
        return found

    monkeypatch.setattr(search, "_near_best", counted)
    asked = vectors[:100].astype(np.float32)
    similarities, _ = exact_hits(stored(vectors), asked, 3, precision="bf16")
    np.testing.assert_allclose(similarities, expected(asked, vectors, 3)[0], atol=0.012)
    assert max(kept) <= 100 * 303


def test_k_above_the_rows_gives_them_all_and_then_nothing(stored: Stored) -> None:
    vectors = corpus("clustered")[:7]
    similarities, rows = exact_hits(stored(vectors), vectors[:3].astype(np.float32), 9)
    assert (np.sort(rows[:, :7]) == np.arange(7)).all() and (rows[:, 7:] == -1).all()
    assert (similarities[:, 7:] == -np.inf).all() and (rows[:, 0] == [0, 1, 2]).all()


@pytest.mark.parametrize("key", ["IVF32,Flat", "IVF32_HNSW8,SQfp16"])
def test_cell_by_cell_gives_what_the_index_gives(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    embeddings = project.store.current("corpus_embeddings", "all")
    stored, drawn = StoredVectors(embeddings, "image"), draw_queries(embeddings, 40)
    build_side(IndexConfig(), key, stored, drawn, tmp_path)
    index = read_index(tmp_path / "image.index")
    faiss.ParameterSpace().set_index_parameters(index, "nprobe=3")
    assert has_whole_cells(index)
    queries = Cloud(ROWS, WIDTH).prompts(10, 20)
    for k, rerank in ((10, 2), (2_000, 1)):
        similarities, rows = cell_hits(index, queries, k, rerank, stored)
        wanted, wanted_rows = find_rows(index, queries, k, rerank, stored)
        assert ((rows < 0) == (wanted_rows < 0)).all()
        found = rows >= 0
        np.testing.assert_allclose(similarities[found], wanted[found], atol=1e-6)
        # Rows may change places only where FAISS' own sums differ in the last bits.
        differ = (rows != wanted_rows) & found
        assert differ.mean() < 0.02 and (similarities[:, 1:] <= similarities[:, :-1]).all()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("key", ["Flat", "HNSW16", "SQ8", "IVF4,SQ8", "OPQ8,IVF4,PQ8x4"])
def test_other_indices_have_no_whole_cells(key: str) -> None:
    assert not has_whole_cells(faiss.index_factory(WIDTH, key, faiss.METRIC_INNER_PRODUCT))


@pytest.mark.parametrize("wanted", ["exact", "index"])
def test_all_prompts_are_searched_and_hits_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str
) -> None:
    index, queries = Index(build_index(project)), Cloud(ROWS, WIDTH).prompts(10, 20)
    scratch = Scratch(tmp_path / "scratch")
    hits, record = search_all(index, "image", queries, 10, scratch, requested=wanted)
    if wanted == "exact":
        stored = StoredVectors(project.store.current("corpus_embeddings", "all"), "image")
        similarities, rows = expected(queries, stored.take(np.arange(ROWS)), 10)
        np.testing.assert_array_equal(hits["similarity"], similarities.ravel())
        np.testing.assert_array_equal(hits["row"], rows.ravel())
        monkeypatch.setattr(index_module, "exact_hits", None)
        again, _ = search_all(index, "image", queries, 10, scratch, requested=wanted)
        assert again.equals(hits)
    else:
        assert hits.equals(index.search("image", queries, 10))
    recall = 1.0 if wanted == "exact" else index.artifact.counts["recall_at_10"]["image"]
    assert (record["way"], record["recall_at_10"]) == (wanted, recall)
    with pytest.raises(InputError, match="dimensions"):
        search_all(index, "image", np.ones((2, 3), np.float32), 5, scratch)


def test_exact_search_is_taken_up_to_so_many_comparisons_a_core(
    indexed_project: Project,
    make_project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat, cells = (
        Index(build_index(make_project(index={"key": key}))) for key in ("Flat", "IVF2,Flat")
    )
    monkeypatch.setattr(index_module, "CORE_COMPARISONS", 10 * flat.rows)
    monkeypatch.setattr(index_module.os, "cpu_count", lambda: 1)
    assert [cells.choose_way("auto", queries)[0] for queries in (10, 11)] == ["exact", "index"]
    assert flat.choose_way("auto", 11)[0] == "exact"  # without cells or a graph it saves nothing
    assert (flat.choose_way("index", 1)[0], cells.choose_way("exact", 11)[0]) == ("index", "exact")
    monkeypatch.setattr(index_module.os, "cpu_count", lambda: 2)
    assert cells.choose_way("auto", 11)[0] == "exact"
