"""FAULTS 15, 17 for embeddings and index."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.upkeep import with_base
from support.vectors import read_vectors

from react_pipeline.embedding import embed_corpus
from react_pipeline.indexing import Index, build_index
from react_pipeline.project import Project
from react_pipeline.store import CorpusError, InputError

Make = Callable[..., Project]


def changed(checkpoint: Path, directory: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one tensor filled."""
    copy = shutil.copytree(checkpoint, directory / "changed")
    weights = load_file(copy / "open_clip_model.safetensors")
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, copy / "open_clip_model.safetensors")
    return copy


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


# FAULTS 15, 17
@pytest.mark.parametrize(
    ("shape", "value", "k", "words"),
    [
        *(((1, 32), value, 3, "NaN or infinity") for value in (np.nan, np.inf)),
        *((shape, 1, 3, "shape .* 32 dim") for shape in [(2, 16), (2, 33), (32,), (1, 1, 32)]),
        *(((1, 32), 1, k, f"k is {k}") for k in (0, -1)),
    ],
)
def test_queries_without_hits_are_refused(
    indexed_project: Project, shape: tuple[int, ...], value: float, k: int, words: str
) -> None:
    index = Index(indexed_project.store.current("faiss_index", "all"))
    with pytest.raises(InputError, match=words):
        index.search("text", np.full(shape, value, np.float32), k)


def test_an_index_of_another_encoder_is_refused_with_both_named(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    own = indexed_project.store.current("base_checkpoint", "all").fingerprint
    assert Index(artifact, encoder=own).dimension == 32
    with pytest.raises(InputError, match=f"{own}.*0123456789abcdef"):
        Index(artifact, encoder="0123456789abcdef")
