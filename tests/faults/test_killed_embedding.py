"""FAULTS 1 for the embeddings: a build killed outright goes on where it was, and ends as if nothing
had happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from support.drawings import pair, write_shard
from support.processes import die, killed
from support.upkeep import with_base
from support.vectors import read_vectors

from react_pipeline.corpus import decoding
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.project import Project
from react_pipeline.store import MissingArtifact, Scratch

SHARDS, PAIRS = 8, 4


def write_shards(directory: Path) -> str:
    for shard in range(SHARDS):
        samples = {
            f"{shard:02d}{n}": pair("circle", "red", shard * PAIRS + n) for n in range(PAIRS)
        }
        write_shard(directory / f"{shard:02d}.tar", samples)
    return str(directory / "*.tar")


def embed_until_killed(path: Path) -> None:
    """Embed, and kill this process when 3 parts are kept and the next one is written."""
    build = Scratch.build

    def dying(self: Scratch, name: str, target: Path, write: Callable[[Path], Any]) -> Any:
        def last(folder: Path) -> None:
            write(folder)
            die()

        return build(self, name, target, last if name == "part-3" else write)

    Scratch.build = dying  # type: ignore[method-assign]
    embed_corpus(Project.load(path))


def test_killed_embedding_resumes_and_equals_an_undisturbed_one(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    project = with_base(make_project(corpus={"shards": [shards]}))
    shutil.copytree(project.config.store, tmp_path / "undisturbed")
    killed(embed_until_killed, project.path)
    (left,) = (project.config.store / ".scratch").glob("*/*")
    with pytest.raises(MissingArtifact):
        project.store.current("corpus_embeddings", "all")
    finished = {path.name: path.stat().st_mtime_ns for path in left.glob("part-*/*/img_emb/*.npy")}
    assert len(finished) == 3

    artifact = embed_corpus(project)
    for name, modified in finished.items():
        assert artifact.file(f"img_emb/{name}").stat().st_mtime_ns == modified
    expected = embed_corpus(make_project(store="undisturbed", corpus={"shards": [shards]}))
    pd.testing.assert_frame_equal(read_metadata(artifact), read_metadata(expected))
    for side in ("image", "text"):
        vectors = pytest.approx(read_vectors(expected, side), abs=2e-3)
        assert read_vectors(artifact, side) == vectors
    assert (
        artifact.counts["rows"] == SHARDS * PAIRS == read_metadata(artifact)["image_path"].nunique()
    )
    assert set(artifact.manifest["files"]) == set(expected.manifest["files"])


def test_a_killed_decoding_process_costs_no_image(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path / "shards")
    project = with_base(
        make_project(corpus={"shards": [shards]}, embedding={"workers": 1, "batch_size": 8})
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr(decoding, "_load", die)
    assert embed_corpus(project).counts["rows"] == SHARDS * PAIRS


def test_killed_while_publishing_embeds_nothing_again(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = indexed_project.store
    shutil.rmtree(store.current("corpus_embeddings", "all").path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("react_pipeline.store.store.with_digest", Mock(side_effect=KeyboardInterrupt))
        embed_corpus(indexed_project)
    (vectors,) = store.root.glob(".scratch/*/*/part-0/*/img_emb/img_emb_000000.npy")
    modified = vectors.stat().st_mtime_ns
    artifact = embed_corpus(indexed_project)
    assert artifact.file("img_emb/img_emb_000000.npy").stat().st_mtime_ns == modified
    assert artifact.counts["rows"] and not list((store.root / ".scratch").iterdir())
