from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import SIDES, Index, build_index, read_index, search
from react_pipeline.indexing import index as index_module
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorruptArtifact

MakeProject = Callable[..., Project]
MakeIndexed = Callable[..., tuple[Artifact, Artifact]]
ROWS, WIDTH, FILE_ROWS = 4_000, 32, 500
KEYS = ["Flat", "SQ8", "HNSW16", "IVF32,Flat", "IVF32,SQfp16", "OPQ8,IVF32_HNSW16,PQ8x4"]
SMALL = {"target_recall": 0.9, "recall_queries": 50}


@pytest.fixture
def make_embedded(make_project: MakeProject) -> MakeProject:
    """Makes a project of the clustered vectors."""

    def make(**index: object) -> Project:
        project = make_project(index={**SMALL, **index})
        publish_parents(project, ROWS)
        publish_embeddings(project, Cloud(ROWS, WIDTH).pairs(FILE_ROWS), WIDTH)
        return project

    return make


@pytest.fixture
def make_indexed(make_embedded: MakeProject) -> MakeIndexed:
    """Makes such embeddings and their index."""

    def make(**index: object) -> tuple[Artifact, Artifact]:
        project = make_embedded(**index)
        return project.store.current("corpus_embeddings", "all"), build_index(project)

    return make


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_of_key_is_built_tuned_and_measured(make_indexed: MakeIndexed, key: str) -> None:
    embeddings, artifact = make_indexed(key=key)
    counts = artifact.counts
    assert (counts["key"], counts["exact"], counts["reason"]) == (key, key == "Flat", "configured")
    assert min(counts["tuned_recall"].values()) >= 0.9
    assert min(counts["recall_at_10"].values()) > 0.8
    assert min(counts["recall_at_100"].values()) > 0.5
    named = {"H": "efSearch=", "I": "nprobe=", "O": "nprobe="}.get(key[0], "")
    for side in SIDES:
        assert counts["parameters"].get(side, "").startswith(named)
    queries = read_vectors(embeddings, "image")[::40]
    nearest = Index(artifact).search("image", queries, 1)
    assert (nearest["row"].to_numpy() == np.arange(0, ROWS, 40)).mean() > 0.8


def test_hits_of_coarse_codes_are_ranked_by_the_stored_vectors(make_indexed: MakeIndexed) -> None:
    _, alone = make_indexed(key="IVF32,PQ8x4", rerank=1)
    embeddings, ranked = make_indexed(key="IVF32,PQ8x4", rerank=16)
    assert alone.counts["rerank"] == {} and ranked.counts["rerank"] == {"image": 16, "text": 16}
    for side in SIDES:
        found = ranked.counts["recall_at_10"][side]
        assert found > alone.counts["recall_at_10"][side] + 0.1
    assert alone.counts["reason"].count("target_recall 0.9 is not reached") == 2
    queries = read_vectors(embeddings, "text")[:20]
    hits = Index(ranked).search("image", queries, 10)
    exact = (queries[hits["query"]] * read_vectors(embeddings, "image")[hits["row"]]).sum(axis=1)
    assert hits["similarity"].to_numpy() == pytest.approx(exact, abs=1e-5)
    assert (hits.groupby("query")["similarity"].diff().dropna() <= 0).all()


def test_batches_give_what_one_search_gives(
    make_indexed: MakeIndexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, artifact = make_indexed(key="IVF32,SQ8")
    queries, index = Cloud(ROWS, WIDTH).prompts(5, 9), Index(artifact)
    whole = index.search("image", queries, 7)
    assert len(whole) == 7 * 45
    monkeypatch.setattr(search, "HITS_AT_ONCE", 70)
    columns = ["query", "row", "rank"]
    assert index.search("image", queries, 7)[columns].equals(whole[columns])
    assert index.search("image", queries[:0], 7).empty


def test_a_build_killed_between_sides_keeps_the_finished_side(
    make_embedded: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_embedded(key="IVF32,Flat")
    build_side, asked = index_module.build_side, []

    def build_until_killed(*given: Any) -> Any:
        asked.append(given[2].side)
        if asked == ["image", "text"]:
            (given[-1] / "text.index").write_bytes(b"half")
            raise KeyboardInterrupt
        return build_side(*given)

    monkeypatch.setattr(index_module, "build_side", build_until_killed)
    with pytest.raises(KeyboardInterrupt):
        build_index(project)
    artifact = build_index(project)
    assert asked == ["image", "text", "text"]
    assert set(artifact.manifest["files"]) == {"image.index", "text.index"}
    assert min(artifact.counts["recall_at_10"].values()) > 0.8


@pytest.mark.parametrize("how", ["empty", "text", "cut", "rows"])
def test_what_faiss_cannot_read_names_the_asset(
    indexed_project: Project, tmp_path: Path, how: str
) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    whole, path = artifact.file("image.index").read_bytes(), tmp_path / "image.index"
    # The number of rows comes after the type and the dimension.
    rows = whole[:8] + struct.pack("<q", 1 << 60) + whole[16:]
    path.write_bytes({"empty": b"", "text": b"no index", "cut": whole[:-40], "rows": rows}[how])
    with pytest.raises(CorruptArtifact, match="rematerialize `faiss_index`"):
        read_index(path)
