from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing.index import Index, build_index
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError, StaleArtifact

ROWS, WIDTH = 4_000, 32
SIDES = ("image", "text")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(Cloud(ROWS, WIDTH).pairs(1_000))


@pytest.fixture
def project(
    make_project: Callable[..., Project], pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> Project:
    """Vectors published, and a configuration that names indices which are not there yet."""
    folder = tmp_path / "ready"
    folder.mkdir()
    corpus = {"kind": "embeddings", "embeddings": str(folder), "indices": str(folder)}
    project = make_project(corpus=corpus, index={"recall_queries": 50})
    publish_parents(project, "ready")
    publish_embeddings(project, iter(pairs), WIDTH)
    return project


def write(
    project: Project,
    key: str = "IVF32,Flat",
    metric: int = faiss.METRIC_INNER_PRODUCT,
    order: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors,
) -> None:
    embeddings = project.store.current("corpus_embeddings", "all")
    for side in SIDES:
        vectors = order(read_vectors(embeddings, side))
        index = faiss.index_factory(vectors.shape[1], key, metric)
        if "OPQ" in key:  # 50 rounds take seconds
            faiss.downcast_VectorTransform(index.chain.at(0)).niter = 4
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(project.config.corpus.indices / f"{side}.index"))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("Flat", "Flat"),
        ("IVF32,Flat", "ready IVFFlat of 32 cells"),
        ("HNSW16", "ready HNSWFlat"),
        ("OPQ8,IVF32_HNSW16,PQ8x4np", "ready IVFPQ of 32 cells"),
    ],
)
def test_ready_indices_are_taken_over_and_tuned(project: Project, key: str, name: str) -> None:
    write(project, key)
    artifact = build_index(project)
    counts = artifact.counts
    assert (counts["key"], counts["exact"], counts["rows"]) == (name, name == "Flat", ROWS)
    assert counts["reason"].startswith("taken over from ")
    assert min(counts["recall_at_10"].values()) >= 0.9
    assert all((artifact.path / f"{side}.index").is_symlink() for side in SIDES)
    assert bool(counts["rerank"]) == key.startswith("OPQ")
    vectors = read_vectors(project.store.current("corpus_embeddings", "all"), "image")[::100]
    found = Index(artifact).search("image", vectors, 1)
    assert (found["row"].to_numpy() == np.arange(0, ROWS, 100)).mean() > 0.9


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {"order": lambda vectors: vectors[:-1]},
            "3,999 rows of 32 dimensions, but the embeddings have 4,000 of 32",
        ),
        ({"order": lambda vectors: vectors[:, :16].copy()}, "4,000 rows of 16 dimensions"),
        ({"metric": faiss.METRIC_L2}, "another distance than the inner product"),
        ({"order": np.flipud}, "its rows are not in the order"),
        ({"key": "PQ1x2np"}, "or it is too coarse"),
    ],
    ids=["rows", "width", "metric", "order", "coarse"],
)
def test_indices_that_do_not_belong_to_embeddings_are_refused(
    project: Project, how: dict[str, object], words: str
) -> None:
    write(project, **how)
    with pytest.raises(InputError, match=words):
        build_index(project)
    assert not (project.config.store / "faiss_index").exists()


def test_a_missing_or_damaged_ready_index_is_named(project: Project) -> None:
    with pytest.raises(InputError, match=r"image\.index"):
        build_index(project)
    write(project)
    path = project.config.corpus.indices / "text.index"
    path.write_bytes(path.read_bytes()[:1_000])
    with pytest.raises(InputError, match=r"text\.index"):
        build_index(project)


def test_removing_ready_indices_makes_the_artifact_stale(
    project: Project,
) -> None:
    write(project)
    build_index(project)
    project.path.write_text(re.sub(" +indices: .*\n", "", project.path.read_text()))
    with pytest.raises(StaleArtifact, match="another `ready`"):
        fresh(Project.load(project.path), "faiss_index")
