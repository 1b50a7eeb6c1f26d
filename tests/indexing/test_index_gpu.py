"""Building with FAISS' GPU package: its calls answered by the exact index itself, since there is no
GPU here.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import pytest

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing.build import build_side
from react_pipeline.indexing.recall import draw_queries
from react_pipeline.project.project import Project
from react_pipeline.settings.index import IndexConfig
from react_pipeline.store import Scratch

pytestmark = pytest.mark.usefixtures("short_rotation")
ROWS, WIDTH = 3_000, 32
FLAT, HALVES = "IVF16,Flat", "IVF16,SQfp16"
ROTATED, GRAPH = "OPQ8_32,IVF16,PQ8x4", "OPQ8_32,IVF16_HNSW8,PQ8x4"
SLOW = pytest.param(ROTATED, marks=pytest.mark.slow)  # trains for seconds, as the next one


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[type, int, int]]:
    """What was copied to the GPU: type, rows, metric."""
    copied = []

    def copy(resources: object, number: int, index: faiss.Index) -> faiss.Index:
        copied.append((type(index), index.ntotal, index.metric_type))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)
    return copied


def built(project: Project, path: Path, key: str, device: str) -> bytes:
    embeddings = project.store.current("corpus_embeddings", "all")
    queries, config = draw_queries(embeddings, 20), IndexConfig(recall_queries=10)
    build_side(config, key, embeddings, "image", path, queries, Scratch(path.parent), device)
    return path.read_bytes()


@pytest.fixture
def project(make_project: object) -> Project:
    project: Project = make_project()  # type: ignore[operator]
    publish_parents(project, 0)
    publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(), WIDTH)
    return project


@pytest.mark.parametrize("key", [FLAT, HALVES, SLOW, pytest.param(GRAPH, marks=pytest.mark.slow)])
def test_only_centroids_go_to_the_gpu_and_the_index_stays_here(
    project: Project, tmp_path: Path, on_gpu: list[tuple[type, int, int]], key: str
) -> None:
    there = built(project, tmp_path / "there.index", key, "cuda")
    trained_by = faiss.METRIC_L2 if "HNSW" in key else faiss.METRIC_INNER_PRODUCT
    cells_by = faiss.read_index(str(tmp_path / "there.index"))
    quantizer = faiss.extract_index_ivf(cells_by).quantizer
    assert [entry[1:] for entry in on_gpu] == [(0, trained_by), (16, quantizer.metric_type)]
    on_gpu.clear()
    here = built(project, tmp_path / "here.index", key, "cpu")
    assert not on_gpu
    if "HNSW" in key:
        # A graph finds nearly all of the nearest cells, the GPU all of them.
        assert len(there) == len(here) and cells_by.ntotal == ROWS
    else:
        assert there == here


@pytest.mark.parametrize("key", ["Flat", "SQfp16", "HNSW8", "SQ8"])
def test_keys_without_cells_stay_in_main_memory_as_they_are(
    project: Project, tmp_path: Path, on_gpu: list[tuple[type, int, int]], key: str
) -> None:
    assert built(project, tmp_path / "a.index", key, "auto") == built(
        project, tmp_path / "b.index", key, "cpu"
    )
    assert not on_gpu


def test_a_full_gpu_is_no_reason_to_fail(
    project: Project,
    tmp_path: Path,
    on_gpu: list[tuple[type, int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nstack")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full)
    there = built(project, tmp_path / "a.index", ROTATED, "cuda")
    assert there == built(project, tmp_path / "b.index", ROTATED, "cpu")
