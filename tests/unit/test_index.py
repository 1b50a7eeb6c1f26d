from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from react_pipeline.config import IndexConfig
from react_pipeline.index import build_index, choose_key, open_index
from react_pipeline.lineage import Project
from react_pipeline.vectors import read_vectors

MakeProject = Callable[..., Project]


def with_index(make_project: MakeProject, indexed_project: Project, **index: object) -> Project:
    """The indexed project with another index configured; its embeddings are there already."""
    return make_project(index=index)


@pytest.mark.parametrize("side", ["image", "text"])
def test_exact_search_equals_brute_force(indexed_project: Project, side: str) -> None:
    vectors = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), side)
    queries = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), "text")[::7]
    hits = open_index(indexed_project.store.current("faiss_index", "all")).search(side, queries, 5)
    assert list(hits.columns) == ["query", "row", "similarity", "rank"]
    assert hits["similarity"].dtype == np.float32
    similarities = queries @ vectors.T
    for query, found in hits.groupby("query"):
        assert list(found["rank"]) == list(range(5))
        assert found["similarity"].to_numpy() == pytest.approx(np.sort(similarities[query])[::-1][:5], abs=1e-5)
        assert similarities[query][found["row"]] == pytest.approx(found["similarity"].to_numpy(), abs=1e-5)


def test_counts_tell_key_recall_and_encoder(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    counts = artifact.counts
    assert (counts["rows"], counts["dimension"], counts["key"], counts["exact"]) == (96, 32, "Flat", True)
    assert counts["recall_at_10"] == {"image": 1.0, "text": 1.0} and counts["recall_queries"] == 20
    assert counts["encoder"] == indexed_project.store.current("base_checkpoint", "all").fingerprint
    assert counts["bytes"] == sum(entry["bytes"] for entry in artifact.manifest["files"].values())


@pytest.mark.parametrize(("key", "parameter"), [("IVF2,Flat", "nprobe=2"), ("HNSW16", "efSearch=64")])
def test_approximate_index_is_tuned_and_its_recall_measured(
    make_project: MakeProject, indexed_project: Project, key: str, parameter: str
) -> None:
    artifact = build_index(with_index(make_project, indexed_project, key=key))
    counts = artifact.counts
    assert (counts["key"], counts["exact"], counts["reason"]) == (key, False, "configured")
    assert counts["parameters"] == {"image": parameter, "text": parameter}
    assert min(counts["recall_at_10"].values()) > 0.9
    assert set(artifact.manifest["files"]) == {"image.index", "text.index"}
    vectors = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), "image")
    nearest = open_index(artifact).search("image", vectors, 1)
    assert (nearest["similarity"] > 0.99).all() and len(nearest) == 96


def test_auto_is_exact_up_to_the_limit_and_approximate_above() -> None:
    assert choose_key(IndexConfig(exact_below=100), 100)[0] == "Flat"
    assert choose_key(IndexConfig(exact_below=100), 101)[0] == "HNSW32"


def test_auto_above_the_limit_builds(make_project: MakeProject, indexed_project: Project) -> None:
    counts = build_index(with_index(make_project, indexed_project, exact_below=10)).counts
    assert (counts["key"], counts["exact"]) == ("HNSW32", False)
    assert "more than exact_below" in counts["reason"]
