"""Cells trained by torch and by FAISS' GPU build: on this machine torch computes on the CPU, and
FAISS has no GPU.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import cells
from react_pipeline.indexing.build import build_side
from react_pipeline.indexing.recall import draw_queries
from react_pipeline.project.project import Project
from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError

pytestmark = pytest.mark.usefixtures("short_rotation")
ROWS, WIDTH, CELLS = 3_000, 32, 16
SLOW = pytest.param("OPQ8_32,IVF16,PQ8x4", marks=pytest.mark.slow)  # trains for seconds
ON_THE_CPU = "cpu:0"
"""torch computes there, as on a GPU, and FAISS does not."""


def built(project: Project, path: Path, key: str, device: str, **fields: str) -> faiss.Index:
    embeddings = project.store.current("corpus_embeddings", "all")
    queries, config = draw_queries(embeddings, 20), IndexConfig(recall_queries=10, **fields)
    build_side(config, key, embeddings, "image", path, queries, device)
    return faiss.read_index(str(path))


def hits(project: Project, index: faiss.Index) -> np.ndarray:
    """Ten rows of each of 64 queries, from all cells."""
    faiss.extract_index_ivf(index).nprobe = CELLS
    vectors = read_vectors(project.store.current("corpus_embeddings", "all"), "image")
    return np.sort(index.search(vectors[:64], 10)[1])


def recall(project: Project, index: faiss.Index) -> float:
    vectors = read_vectors(project.store.current("corpus_embeddings", "all"), "image")
    truth = faiss.knn(vectors[:64], vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]
    pairs = zip(hits(project, index), truth, strict=True)
    return float(np.mean([len(np.intersect1d(*pair)) for pair in pairs])) / 10


@pytest.fixture
def project(make_project: object) -> Project:
    project: Project = make_project()  # type: ignore[operator]
    publish_parents(project, 0)
    publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(), WIDTH)
    return project


@pytest.mark.parametrize("key", ["IVF16,Flat", "IVF16,SQfp16", "IVF16_HNSW8,Flat", SLOW])
def test_an_index_with_cells_of_torch_is_one_of_faiss(
    project: Project, tmp_path: Path, key: str
) -> None:
    there = built(project, tmp_path / "there.index", key, ON_THE_CPU)
    lists = faiss.extract_index_ivf(there)
    vectors = read_vectors(project.store.current("corpus_embeddings", "all"), "image")
    if "OPQ" in key:
        vectors = faiss.downcast_VectorTransform(faiss.downcast_index(there).chain.at(0)).apply(
            vectors
        )
    centroids = lists.quantizer.reconstruct_n(0, CELLS)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)
    # Each row is in the cell that FAISS itself finds for it.
    nearest = faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    for cell in range(CELLS):
        size = lists.invlists.list_size(cell)
        rows = faiss.rev_swig_ptr(lists.invlists.get_ids(cell), size)
        assert np.array_equal(np.sort(rows), np.flatnonzero(nearest == cell))
    here = built(project, tmp_path / "here.index", key, "cpu")
    if "PQ" in key:  # codes of residuals depend on the centroids
        assert recall(project, there) > recall(project, here) - 0.05
    else:
        assert np.array_equal(hits(project, there), hits(project, here))


def test_torch_trains_cells_as_good_as_those_of_faiss() -> None:
    rows = Cloud(ROWS, WIDTH).pairs()
    rows = np.concatenate([images for images, *_ in rows]).astype(np.float32)
    ours = cells.train_centroids(rows, CELLS, "cpu")
    kmeans = faiss.Kmeans(WIDTH, CELLS, niter=cells.ROUNDS, spherical=True)
    kmeans.train(rows)
    fit = [np.mean((rows @ centroids.T).max(axis=1)) for centroids in (ours, kmeans.centroids)]
    assert fit[0] == pytest.approx(fit[1], abs=0.02)


def test_an_empty_cell_keeps_its_centroid() -> None:
    rows = np.eye(8, dtype=np.float32)[np.r_[np.zeros(400, int), np.arange(8)]]
    centroids = cells.train_centroids(rows, 4, "cpu")
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("key", ["Flat", "SQfp16", "HNSW8", "SQ8"])
def test_keys_without_cells_are_the_same_on_a_gpu(
    project: Project, tmp_path: Path, key: str
) -> None:
    paths = [tmp_path / "a.index", tmp_path / "b.index"]
    for path, device in zip(paths, ("cpu", ON_THE_CPU), strict=True):
        built(project, path, key, device)
    assert paths[0].read_bytes() == paths[1].read_bytes()


STAND_IN = """
import os, sys, types
import numpy
__version__ = "1"
{body}
class Kmeans:
    def __init__(self, width, cells, niter, spherical, gpu):
        self.cells = cells
    def train(self, rows):
        self.centroids = rows[: self.cells] / numpy.linalg.norm(rows[: self.cells], axis=1)[:, None]
"""


@pytest.fixture
def gpu_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "faiss-gpu"
    monkeypatch.setattr(cells, "FAISS_GPU", folder)
    (folder / "faiss").mkdir(parents=True)
    return folder / "faiss" / "__init__.py"


def test_a_gpu_build_of_faiss_trains_in_a_process_of_its_own(
    project: Project, tmp_path: Path, gpu_build: Path
) -> None:
    gpu_build.write_text(STAND_IN.format(body="get_num_gpus = lambda: 1"))
    index = built(project, tmp_path / "a.index", "IVF16,Flat", "cpu", train_on="faiss-gpu")
    sample = read_vectors(project.store.current("corpus_embeddings", "all"), "image")
    centroids = faiss.extract_index_ivf(index).quantizer.reconstruct_n(0, CELLS)
    similarities = sample @ centroids.T
    assert similarities.max(axis=0) == pytest.approx(1, abs=1e-3), "they are rows of the sample"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.abort()", "terminated abruptly"),
        ("raise RuntimeError('no kernel image is available')", "no kernel image"),
        ("get_num_gpus = lambda: 0", "has no GPU"),
    ],
)
def test_a_gpu_build_that_does_not_fit_the_card_is_one_error(
    project: Project, tmp_path: Path, gpu_build: Path, body: str, words: str
) -> None:
    gpu_build.write_text(STAND_IN.format(body=body))
    with pytest.raises(InputError, match=rf"(?s)index\.train_on.*{words}"):
        built(project, tmp_path / "a.index", "IVF16,Flat", "cpu", train_on="faiss-gpu")


def test_without_the_gpu_build_train_on_is_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "FAISS_GPU", tmp_path / "none")
    with pytest.raises(InputError, match=r"index\.train_on"):
        built(project, tmp_path / "a.index", "IVF16,Flat", "cpu", train_on="faiss-gpu")
