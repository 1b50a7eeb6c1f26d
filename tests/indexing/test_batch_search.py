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
import torch

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import exact, scan
from react_pipeline.indexing.build import build_side
from react_pipeline.indexing.exact import best_hits, exact_hits
from react_pipeline.indexing.files import cell_hits, find_rows, has_whole_cells, read_index
from react_pipeline.indexing.index import Index, build_index
from react_pipeline.indexing.recall import draw_queries
from react_pipeline.indexing.scan import CORE_COMPARISONS, choose_way, search_all
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project.project import Project
from react_pipeline.settings import IndexConfig
from react_pipeline.store import Scratch
from react_pipeline.store.errors import InputError
from react_pipeline.store.store import remember

MakeProject = Callable[..., Project]
ROWS, WIDTH, FILE_ROWS = 6_000, 64, 1_700


def corpus(kind: str) -> np.ndarray:
    """Vectors in half precision, as they are stored."""
    random = np.random.default_rng(3)
    if kind == "random":
        vectors = random.standard_normal((ROWS, WIDTH))
    else:
        vectors = np.concatenate([images for images, _ in Cloud(ROWS, WIDTH).pairs()])
    if kind == "duplicates":
        vectors[500:900] = vectors[499]
        vectors[5_000:] = vectors[:1_000]
    if kind == "alike":  # a product in a fast type cannot tell them apart
        vectors = vectors[0] + 1e-2 * random.standard_normal((ROWS, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def expected(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities in double precision, rounded; equal ones by row."""
    products = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, rows, axis=1), rows


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    project = make_project(index={"key": "IVF32,SQfp16", "recall_queries": 40})
    publish_parents(project, 0)
    publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(FILE_ROWS), WIDTH)
    return project


def nearest(
    asked: np.ndarray, vectors: np.ndarray, k: int, precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray]:
    vectors = vectors.astype(np.float32)
    blocks = [
        (first, torch.from_numpy(vectors[first : first + 500]))
        for first in range(0, len(vectors), 500)
    ]
    return best_hits(asked, k, blocks, vectors.__getitem__, precision)


@pytest.mark.parametrize("kind", ["random", "clustered", "duplicates", "alike"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("queries", "k"), [(1, 1), (300, 10), (70, 2_000)])
def test_hits_are_those_of_all_comparisons_in_every_precision(
    kind: str, precision: str, queries: int, k: int
) -> None:
    vectors, asked = corpus(kind), Cloud(ROWS, WIDTH).prompts(10, 30)[:queries]
    if kind == "duplicates":
        asked[0] = vectors[499]  # one of 401 equal rows
    if kind == "alike":
        asked = vectors[:queries].astype(np.float32)
    similarities, rows = nearest(asked, vectors, k, precision)
    wanted, wanted_rows = expected(asked, vectors, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(similarities, wanted)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors.astype(np.float32))
    np.testing.assert_allclose(flat.search(asked, k)[0], similarities, atol=1e-6)


def test_memory_is_bounded_where_very_many_rows_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, kept, own = corpus("alike"), [], exact._near_best
    monkeypatch.setattr(exact, "MOST_ALIKE", 300)
    monkeypatch.setattr(exact, "_SPARE_PAIRS", 1_000)

    def counted(*args: Any) -> Any:
        found = own(*args)
        kept.append(len(found[0]))
        return found

    monkeypatch.setattr(exact, "_near_best", counted)
    asked = vectors[:100].astype(np.float32)
    similarities, _ = nearest(asked, vectors, 3, "bf16")
    np.testing.assert_allclose(similarities, expected(asked, vectors, 3)[0], atol=0.012)
    assert max(kept) <= 100 * 303


def test_k_above_the_rows_gives_them_all_and_then_nothing() -> None:
    vectors = corpus("random")[:7].astype(np.float32)
    similarities, rows = nearest(vectors[:3], vectors, 9)
    assert (np.sort(rows[:, :7]) == np.arange(7)).all() and (rows[:, 7:] == -1).all()
    assert (similarities[:, 7:] == -np.inf).all() and (rows[:, 0] == [0, 1, 2]).all()


@pytest.mark.parametrize("key", ["IVF32,Flat", "IVF32,SQfp16", "IVF32_HNSW8,SQfp16"])
def test_cell_by_cell_gives_what_the_index_gives(
    project: Project, tmp_path: Path, key: str
) -> None:
    embeddings = project.store.current("corpus_embeddings", "all")
    stored, path = StoredVectors(embeddings, "image"), tmp_path / "image.index"
    config, drawn = IndexConfig(recall_queries=20), draw_queries(embeddings, 40)
    build_side(config, key, embeddings, "image", path, drawn)
    index = read_index(path, mapped=True)
    faiss.ParameterSpace().set_index_parameters(index, "nprobe=3")
    assert has_whole_cells(index)
    queries = Cloud(ROWS, WIDTH).prompts(10, 20)
    for k, rerank in ((1, 1), (10, 2), (400, 1), (2_000, 1)):
        similarities, rows = cell_hits(index, queries, k, rerank, stored)
        wanted, wanted_rows = find_rows(index, queries, k, rerank, stored)
        assert ((rows < 0) == (wanted_rows < 0)).all()
        found = rows >= 0
        np.testing.assert_allclose(similarities[found], wanted[found], atol=1e-6)
        # Rows may change places only where FAISS' own sums differ in the last bits.
        differ = (rows != wanted_rows) & found
        assert differ.mean() < 0.02 and (similarities[:, 1:] <= similarities[:, :-1]).all()


@pytest.mark.parametrize("key", ["Flat", "HNSW16", "SQ8", "IVF4,SQ8", "OPQ8,IVF4,PQ8x4"])
def test_other_indices_have_no_whole_cells(key: str) -> None:
    assert not has_whole_cells(faiss.index_factory(WIDTH, key, faiss.METRIC_INNER_PRODUCT))


@pytest.mark.parametrize("wanted", ["exact", "index"])
def test_all_prompts_are_searched_in_parts_and_resume(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str
) -> None:
    monkeypatch.setattr(scan, "PART_ROWS", FILE_ROWS)
    index = Index(build_index(project))
    queries = Cloud(ROWS, WIDTH).prompts(10, 20)
    similarities, rows, record = search_all(
        index, "image", queries, 10, Scratch(tmp_path / "scratch"), requested=wanted
    )
    whole = index.search("image", queries, 10)
    if wanted == "exact":
        stored = StoredVectors(project.store.current("corpus_embeddings", "all"), "image")
        np.testing.assert_array_equal(rows, expected(queries, stored.take(np.arange(ROWS)), 10)[1])
        parts = sorted((tmp_path / "scratch").glob("*.[0-9]*.npy"))
        assert len(parts) == 4
        next((tmp_path / "scratch").glob("*.hits.npy")).unlink()
        parts[1].unlink()
        seen: list[tuple[int, int]] = []
        once = exact_hits

        def counted(*args: object, **named: object) -> object:
            seen.append(named["rows"])  # type: ignore[arg-type]
            return once(*args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(scan, "exact_hits", counted)
        again = search_all(
            index, "image", queries, 10, Scratch(tmp_path / "scratch"), requested=wanted
        )
        np.testing.assert_array_equal(again[1], rows)
        assert len(seen) == 1
    else:
        np.testing.assert_array_equal(rows.ravel(), whole["row"])
    recall = 1.0 if wanted == "exact" else index.artifact.counts["recall_at_10"]["image"]
    assert (record["way"], record["recall_at_10"]) == (wanted, recall)


def test_vectors_that_changed_are_named(project: Project, tmp_path: Path) -> None:
    embeddings = project.store.current("corpus_embeddings", "all")
    queries = Cloud(ROWS, WIDTH).prompts(2, 2)
    folder, name = embeddings.path, "img_emb/img_emb_0002.npy"
    path = folder / name
    vectors = np.load(path)
    path.chmod(0o644)
    vectors[77] = np.nan
    np.save(path, vectors)
    remember(folder, [name])  # as if the store could not see the change
    with pytest.raises(InputError, match=r"img_emb_0002.npy: row 77 \(key"):
        exact_hits(StoredVectors(embeddings, "image"), queries, 5)


def test_queries_of_another_width_are_refused(project: Project, tmp_path: Path) -> None:
    index = Index(build_index(project))
    with pytest.raises(InputError, match="dimensions"):
        search_all(index, "image", np.ones((2, 3), np.float32), 5, Scratch(tmp_path))


def test_exact_search_is_taken_up_to_so_many_comparisons_a_core() -> None:
    rows = int(CORE_COMPARISONS / 1_000)
    assert choose_way("auto", 1_000, rows, True, cores=1)[0] == "exact"
    assert choose_way("auto", 1_001, rows, True, cores=1)[0] == "index"
    assert choose_way("auto", 1_001, rows, True, cores=2)[0] == "exact"
    # An index without cells or a graph saves nothing.
    assert choose_way("auto", 1_001, rows, False, cores=1)[0] == "exact"
    assert choose_way("index", 1, 1, False)[0] == "index"
    assert choose_way("exact", 1_001, rows, True, cores=1)[0] == "exact"
