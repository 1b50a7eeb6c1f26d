"""What comes after the corpus reads remote shards and downloaded images as it reads local ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.shard_server import serve_folder
from support.vectors import read_vectors

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus import open_source, publish_corpus, remote
from react_pipeline.corpus.image_source import LOCATION
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.project.project import Project
from react_pipeline.store.errors import SourceUnavailable

MakeProject = Callable[..., Project]


@pytest.mark.parametrize("workers", [0, 1])
def test_remote_shards_give_embeddings_and_images_of_local_ones(
    make_project: MakeProject,
    indexed_project: Project,
    drawings: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    shutil.copytree(drawings / "shards", tmp_path / "served")
    with serve_folder(tmp_path / "served") as server:
        project = make_project(
            store="remote",
            corpus={"shards": [f"{server.url}/{{00000..00002}}.tar"]},
            embedding={"workers": workers, "batch_size": 32},
        )
        corpus = publish_corpus(project)
        publish_base(project)
        there = embed_corpus(project)
        local = indexed_project.store.current("corpus_embeddings", "all")
        pd.testing.assert_frame_equal(read_metadata(there), read_metadata(local))
        for side in ("image", "text"):
            np.testing.assert_allclose(
                read_vectors(there, side), read_vectors(local, side), atol=1e-3
            )
        rows = read_metadata(there, LOCATION).iloc[[1, 40, 95]].rename_axis("row").reset_index()
        got = list(open_source(project, corpus).fetch(rows))
        assert [pair.row for pair, _image in got] == [1, 40, 95]


def test_a_dying_server_is_named_and_finished_shards_are_kept(
    make_project: MakeProject, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 3)
    with serve_folder(drawings / "shards") as server:
        project = make_project(corpus={"shards": [f"{server.url}/{{00000..00002}}.tar"]})
        publish_corpus(project)
        publish_base(project)
        server.answers["/00002.tar"] = [503] * 100
        with pytest.raises(SourceUnavailable, match=r"00002\.tar: .*after 3 retries"):
            embed_corpus(project)
        server.answers.clear()
        server.requests.clear()
        assert embed_corpus(project).counts["rows"] == 96
        assert set(server.requests) == {"/00002.tar"}
