"""Cells trained by FAISS' GPU build; on this machine FAISS has no GPU."""

from __future__ import annotations

from pathlib import Path

import faiss
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.embedding import StoredVectors
from react_pipeline.indexing import build, build_side, draw_queries
from react_pipeline.project import Project
from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError

ROWS, WIDTH, CELLS = 3_000, 32, 16


def built(project: Project, folder: Path) -> faiss.Index:
    embeddings = project.store.current("corpus_embeddings", "all")
    queries, config = draw_queries(embeddings, 20), IndexConfig(train_on="faiss-gpu")
    build_side(config, f"IVF{CELLS},Flat", StoredVectors(embeddings, "image"), queries, folder)
    return faiss.read_index(str(folder / "image.index"))


@pytest.fixture
def project(make_project: object) -> Project:
    project: Project = make_project()  # type: ignore[operator]
    publish_parents(project, 0)
    publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(), WIDTH)
    return project


STAND_IN = """
import os, sys, types
import numpy
__version__ = "1"
{body}
class Kmeans:
    def __init__(self, width, cells, spherical, gpu):
        self.cells = cells
    def train(self, rows):
        self.centroids = rows[: self.cells] / numpy.linalg.norm(rows[: self.cells], axis=1)[:, None]
"""


@pytest.fixture
def gpu_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "faiss-gpu"
    monkeypatch.setattr(build, "FAISS_GPU", folder)
    (folder / "faiss").mkdir(parents=True)
    return folder / "faiss" / "__init__.py"


def test_a_gpu_build_of_faiss_trains_in_a_process_of_its_own(
    project: Project, tmp_path: Path, gpu_build: Path
) -> None:
    gpu_build.write_text(STAND_IN.format(body="get_num_gpus = lambda: 1"))
    index = built(project, tmp_path)
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
        ("", "has no GPU"),  # not installed: the one of the processor is imported
    ],
)
def test_a_gpu_build_that_does_not_fit_the_card_is_one_error(
    project: Project, tmp_path: Path, gpu_build: Path, body: str, words: str
) -> None:
    if body:
        gpu_build.write_text(STAND_IN.format(body=body))
    else:
        gpu_build.parent.rmdir()
    with pytest.raises(InputError, match=rf"(?s)index\.train_on.*{words}"):
        built(project, tmp_path)
