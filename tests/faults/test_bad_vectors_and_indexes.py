"""FAULTS 4, 5, 15, 16, 17, 18 for embeddings and index."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.upkeep import edit_domain, with_base
from support.vectors import read_vectors

from react_pipeline.embedding import embed_corpus
from react_pipeline.indexing import Index, build_index
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.store import CorpusError, CorruptArtifact, InputError, durable

Make = Callable[..., Project]


@pytest.fixture(autouse=True)
def nothing_verified_yet() -> None:
    """As in a new process, in which no artifact has been verified."""
    durable._known.cache_clear()


# FAULTS 4, and for other damage `test_store.py`
def test_damaged_embeddings_are_not_indexed(indexed_project: Project) -> None:
    embeddings = indexed_project.store.current("corpus_embeddings", "all")
    path = embeddings.file("img_emb/img_emb_000001.npy")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shutil.rmtree(indexed_project.config.store / "faiss_index")
    with pytest.raises(CorruptArtifact, match="rematerialize `corpus_embeddings`"):
        build_index(indexed_project)
    assert not indexed_project.store.has("faiss_index", "all")


def changed(checkpoint: Path, directory: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one tensor filled."""
    directory = directory / "changed"
    directory.mkdir()
    for file in checkpoint.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    weights = load_file(directory / "open_clip_model.safetensors")
    save_file(
        {**weights, name: torch.full_like(weights[name], value)},
        directory / "open_clip_model.safetensors",
    )
    return directory


# FAULTS 15
@pytest.mark.parametrize(
    ("tensor", "value"),
    [("visual.proj", float("nan")), ("visual.proj", 0.0), ("text_projection", float("inf"))],
)
def test_vectors_that_no_search_could_find_are_refused(
    make_project: Make,
    tiny_checkpoint: Path,
    tmp_path: Path,
    tensor: str,
    value: float,
) -> None:
    project = with_base(
        make_project(encoder={"pretrained": str(changed(tiny_checkpoint, tmp_path, tensor, value))})
    )
    with pytest.raises(CorpusError, match=r"'000000'"):
        embed_corpus(project)
    assert not (tmp_path / "store" / "corpus_embeddings").exists()


# FAULTS 16
def test_a_k_beyond_the_index_gives_every_row_once_and_says_so(indexed_project: Project) -> None:
    wanted = {"k_per_prompt": 150, "max_per_class": 150}
    edit_domain(indexed_project, "shapes", retrieval=wanted)
    publish_evaluation_set(indexed_project, "shapes")
    artifact = retrieve_pairs(indexed_project, "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    assert pairs["row"].between(0, 95).all() and pairs["row"].is_unique
    report = pd.read_parquet(artifact.file("classes.parquet"))
    assert report["shortfall"].tolist() == [2 * (150 - 96) * n for n in report["prompts"]]
    assert artifact.counts["shortfall"] == report["shortfall"].sum()
    assert report["candidates"].tolist() == [96] * 4


def test_cells_that_hold_fewer_rows_than_wanted_give_fewer_hits(
    make_project: Make, indexed_project: Project
) -> None:
    artifact = build_index(make_project(index={"key": "IVF2,Flat"}))
    index = Index(artifact)
    queries = read_vectors(indexed_project.store.current("corpus_embeddings", "all"), "image")
    index.search("image", queries[:1], 1)
    index._sides["image"].nprobe = 1
    hits = index.search("image", queries, 96)
    assert 96 < len(hits) < 96 * 96 and hits["row"].min() >= 0
    for _, found in hits.groupby("query"):
        assert list(found["rank"]) == list(range(len(found)))


@pytest.mark.parametrize("k", [0, -1])
def test_no_hits_wanted_is_refused(indexed_project: Project, k: int) -> None:
    index = Index(indexed_project.store.current("faiss_index", "all"))
    with pytest.raises(InputError, match=f"k is {k}"):
        index.search("image", np.ones((1, 32), np.float32), k)


# FAULTS 15, 17
@pytest.mark.parametrize(
    ("shape", "value", "words"),
    [
        *(((1, 32), value, "NaN or infinity") for value in (np.nan, np.inf)),
        *((shape, 1, "shape .* 32 dimensions") for shape in [(2, 16), (2, 33), (32,), (1, 1, 32)]),
    ],
)
def test_queries_that_no_vector_is_like_are_refused(
    indexed_project: Project, shape: tuple[int, ...], value: float, words: str
) -> None:
    index = Index(indexed_project.store.current("faiss_index", "all"))
    with pytest.raises(InputError, match=words):
        index.search("text", np.full(shape, value, np.float32), 3)


def test_an_index_of_another_encoder_is_refused_with_both_named(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    own = indexed_project.store.current("base_checkpoint", "all").fingerprint
    assert Index(artifact, encoder=own).dimension == 32
    with pytest.raises(InputError, match=f"{own}.*0123456789abcdef"):
        Index(artifact, encoder="0123456789abcdef")


# FAULTS 18
def test_a_corpus_too_small_for_the_key_is_searched_exactly(
    make_project: Make, indexed_project: Project
) -> None:
    counts = build_index(make_project(index={"key": "IVF1024,Flat"})).counts
    assert (counts["key"], counts["exact"]) == ("Flat", True)
    assert counts["reason"].startswith("IVF1024,Flat needs 39,936 rows")
    assert counts["recall_at_10"]["image"] == 1.0
