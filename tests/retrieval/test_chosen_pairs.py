"""The files of chosen pairs, and what a build that was not published leaves."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from react_pipeline.indexing import index
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs


@pytest.fixture
def project(indexed_project: Project) -> Project:
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_build_repeats_no_search_and_reuses_no_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("react_pipeline.store.store.with_digest", interrupted)
        retrieve_pairs(project, "shapes")
    (shard,) = project.store.root.glob(".scratch/*/*/built/files/shards/00000.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # of the first image, which no other check sees
    shard.write_bytes(data)
    monkeypatch.setattr(index, "exact_hits", interrupted)
    artifact = retrieve_pairs(project, "shapes")
    monkeypatch.undo()
    assert not list((project.store.root / ".scratch").iterdir())
    shutil.rmtree(artifact.path)
    undisturbed = retrieve_pairs(project, "shapes")
    assert artifact.manifest["files"] == undisturbed.manifest["files"]
