from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.vectors import read_vectors

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import files
from react_pipeline.indexing import index as index_module
from react_pipeline.indexing.index import Index, build_index
from react_pipeline.indexing.vectors import SIDES, StoredVectors
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorruptArtifact, InputError

pytestmark = pytest.mark.usefixtures("short_rotation")
MakeProject = Callable[..., Project]
ROWS, WIDTH, FILE_ROWS = 4_000, 32, 500
KEYS = [
    "Flat",
    "SQ8",
    "HNSW16",
    "IVF32,Flat",
    "IVF32,SQ8",
    "IVF32,SQfp16",
    "OPQ8,IVF32_HNSW16,PQ8x4",
]
SMALL = {"target_recall": 0.9, "recall_queries": 50}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(Cloud(ROWS, WIDTH).pairs(FILE_ROWS))


def publish(project: Project, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Artifact:
    publish_parents(project, len(pairs))
    return publish_embeddings(project, iter(pairs), WIDTH)


@pytest.fixture
def make_indexed(
    make_project: MakeProject, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[Callable[..., tuple[Project, Artifact]]]:
    """Makes a project of the clustered vectors (the first `files` of them) and its index."""

    def make(files: int | None = None, **index: object) -> tuple[Project, Artifact]:
        project = make_project(index={**SMALL, **index})
        publish(project, pairs[:files])
        return project, build_index(project)

    yield make


@pytest.mark.parametrize("side", ["image", "text"])
def test_exact_search_equals_brute_force(indexed_project: Project, side: str) -> None:
    vectors = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), side)
    queries = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), "text")[::7]
    hits = Index(indexed_project.store.current("faiss_index", "all")).search(side, queries, 5)
    assert list(hits.columns) == ["query", "row", "similarity", "rank"]
    assert hits["similarity"].dtype == np.float32
    similarities = queries @ vectors.T
    for query, found in hits.groupby("query"):
        assert list(found["rank"]) == list(range(5))
        assert found["similarity"].to_numpy() == pytest.approx(
            np.sort(similarities[query])[::-1][:5], abs=1e-5
        )
        assert similarities[query][found["row"]] == pytest.approx(
            found["similarity"].to_numpy(), abs=1e-5
        )


def test_counts_have_key_recall_and_encoder(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    counts = artifact.counts
    assert (counts["rows"], counts["dimension"], counts["key"], counts["exact"]) == (
        96,
        32,
        "Flat",
        True,
    )
    assert counts["recall_at_10"] == counts["recall_at_100"] == {"image": 1.0, "text": 1.0}
    assert counts["recall_queries"] == 20
    assert counts["encoder"] == indexed_project.store.current("base_checkpoint", "all").fingerprint
    assert counts["bytes"] == sum(entry["bytes"] for entry in artifact.manifest["files"].values())


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_of_key_is_built_tuned_and_measured(
    make_indexed: Callable[..., tuple[Project, Artifact]], key: str
) -> None:
    project, artifact = make_indexed(key=key)
    counts = artifact.counts
    assert (counts["key"], counts["exact"], counts["reason"]) == (key, key == "Flat", "configured")
    assert min(counts["tuned_recall"].values()) >= 0.9
    assert (
        min(counts["recall_at_10"].values()) > 0.8 and min(counts["recall_at_100"].values()) > 0.5
    )
    named = {"H": "efSearch", "I": "nprobe", "O": "nprobe"}.get(key[0])
    for side in ("image", "text"):
        assert (named is None) or counts["parameters"][side].startswith(f"{named}=")
    assert set(artifact.manifest["files"]) == {"image.index", "text.index"}
    stored = StoredVectors(project.store.current("corpus_embeddings", "all"), "image")
    queries = stored.take(np.arange(0, ROWS, 40))
    nearest = Index(artifact).search("image", queries, 1)
    assert (nearest["row"].to_numpy() == np.arange(0, ROWS, 40)).mean() > 0.8


def test_hits_of_coarse_codes_are_ranked_by_the_stored_vectors(
    make_indexed: Callable[..., tuple[Project, Artifact]],
) -> None:
    project, artifact = make_indexed(key="IVF32,PQ8x4")
    assert min(artifact.counts["rerank"].values()) >= 8
    embeddings = project.store.current("corpus_embeddings", "all")
    queries = read_vectors(embeddings, "text")[:20]
    hits = Index(artifact).search("image", queries, 10)
    exact = (queries[hits["query"]] * read_vectors(embeddings, "image")[hits["row"]]).sum(axis=1)
    assert hits["similarity"].to_numpy() == pytest.approx(exact, abs=1e-5)
    assert (hits.groupby("query")["similarity"].diff().dropna() <= 0).all()


def test_re_ranking_finds_more_than_the_codes_alone(
    make_indexed: Callable[..., tuple[Project, Artifact]],
) -> None:
    _, alone = make_indexed(key="IVF32,PQ8x4", rerank=1)
    _, ranked = make_indexed(key="IVF32,PQ8x4", rerank=16)
    assert alone.counts["rerank"] == {} and ranked.counts["rerank"] == {"image": 16, "text": 16}
    assert all(
        ranked.counts["recall_at_10"][side] > alone.counts["recall_at_10"][side] + 0.1
        for side in SIDES
    )
    assert alone.counts["reason"].count("target_recall 0.9 is not reached") == 2


@pytest.mark.parametrize("key", ["IVF32,Flat", "IVF32,SQ8"])
def test_batches_give_what_one_search_gives(
    make_indexed: Callable[..., tuple[Project, Artifact]], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    _, artifact = make_indexed(key=key)
    queries, index = Cloud(ROWS, WIDTH).prompts(5, 9), Index(artifact)
    whole = index.search("image", queries, 7)
    assert len(whole) == 7 * 45
    monkeypatch.setattr(files, "HITS_AT_ONCE", 70)
    parts = index.search("image", queries, 7)
    assert parts[["query", "row", "rank"]].equals(whole[["query", "row", "rank"]])
    assert index.search("image", queries[:0], 7).empty


def test_auto_above_the_limit_builds(make_project: MakeProject, indexed_project: Project) -> None:
    counts = build_index(make_project(index={"exact_below": 10})).counts
    assert (counts["key"], counts["exact"]) == ("HNSW32", False)
    assert "more than exact_below" in counts["reason"]


def test_what_only_check_reads_is_no_part_of_fingerprint(make_project: MakeProject) -> None:
    from react_pipeline.stage import STAGES

    def named(**index: object) -> dict[str, object]:
        return STAGES["faiss_index"].identity(make_project(index=index), "all")

    assert named(min_recall=0.5) == named()
    assert named(rerank=4) == {**named(), "rerank": 4}


def test_a_build_killed_between_sides_keeps_the_finished_side(
    make_project: MakeProject,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project(index={**SMALL, "key": "IVF32,Flat"})
    publish(project, pairs)
    build_side, asked = index_module.build_side, []

    def build_until_killed(
        config: object, key: str, embeddings: Artifact, side: str, *rest: object
    ) -> object:
        asked.append(side)
        if asked == ["image", "text"]:
            rest[0].write_bytes(b"half")
            raise KeyboardInterrupt
        return build_side(config, key, embeddings, side, *rest)

    monkeypatch.setattr(index_module, "build_side", build_until_killed)
    with pytest.raises(KeyboardInterrupt):
        build_index(project)
    artifact = build_index(project)
    assert asked == ["image", "text", "text"]
    assert set(artifact.manifest["files"]) == {"image.index", "text.index"}
    assert min(artifact.counts["recall_at_10"].values()) > 0.8


def test_a_file_cut_after_opening_is_refused_before_mapping(
    make_indexed: Callable[..., tuple[Project, Artifact]],
) -> None:
    _, artifact = make_indexed(key="IVF32,Flat")
    path = artifact.file("image.index")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CorruptArtifact, match="rematerialize `faiss_index`"):
        Index(artifact).search("image", np.eye(1, WIDTH, dtype=np.float32), 1)


def test_a_key_that_does_not_fit_the_vectors_is_refused(
    make_indexed: Callable[..., tuple[Project, Artifact]],
) -> None:
    with pytest.raises(InputError, match="vectors of 32 numbers.* 7 equal parts"):
        make_indexed(key="IVF32,PQ7x4")
