"""FAULTS 1 for the embeddings: a build killed outright goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support_drawings import pair, write_shard

from react_pipeline.base import publish_base
from react_pipeline.corpus import publish_corpus
from react_pipeline.embed import embed_corpus, read_metadata, read_vectors
from react_pipeline.errors import MissingArtifact
from react_pipeline.lineage import Project

SHARDS, PAIRS = 20, 4
COMMAND = """
import sys
from react_pipeline.embed import embed_corpus
from react_pipeline.lineage import Project
embed_corpus(Project.load(sys.argv[1]))
"""


def write_shards(directory: Path) -> str:
    for shard in range(SHARDS):
        samples = {f"{shard:02d}{n}": pair("circle", "red", shard * PAIRS + n) for n in range(PAIRS)}
        write_shard(directory / f"{shard:02d}.tar", samples)
    return str(directory / "*.tar")


def killed_after_some_groups(project: Project) -> Path:
    """Embed in another process and kill it with SIGKILL once 3 groups are done; returns the folder it left."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(project.path)])
    staging = project.config.store / ".staging"
    while process.poll() is None and len(list(staging.glob("*/scratch/*.json"))) < 3:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (left,) = staging.iterdir()
    return left


def test_killed_embedding_goes_on_and_equals_an_undisturbed_one(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    undisturbed = make_project(store="undisturbed", corpus={"shards": [shards]})
    project = make_project(corpus={"shards": [shards]})
    for each in (undisturbed, project):
        publish_corpus(each)
        publish_base(each)
    left = killed_after_some_groups(project)
    with pytest.raises(MissingArtifact):
        project.store.current("corpus_embeddings", "all")
    done = [path.stem for path in (left / "scratch").glob("*.json")]
    assert 3 <= len(done) < SHARDS
    finished = {int(number): (left / f"img_emb/img_emb_{int(number):02d}.npy").stat().st_mtime_ns for number in done}

    artifact = embed_corpus(project)
    for number, modified in finished.items():
        assert artifact.file(f"img_emb/img_emb_{number:02d}.npy").stat().st_mtime_ns == modified
    expected = embed_corpus(undisturbed)
    pd.testing.assert_frame_equal(read_metadata(artifact), read_metadata(expected))
    for side in ("image", "text"):
        assert np.array_equal(read_vectors(artifact, side), read_vectors(expected, side))
    assert artifact.counts["rows"] == SHARDS * PAIRS == read_metadata(artifact)["image_path"].nunique()
    assert not any("scratch" in name for name in artifact.manifest["files"])
    assert set(artifact.manifest["files"]) == set(expected.manifest["files"])


def test_groups_cut_otherwise_are_not_mixed_with_those_of_the_killed_build(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    project = make_project(corpus={"shards": [shards]})
    publish_corpus(project)
    publish_base(project)
    killed_after_some_groups(project)
    artifact = embed_corpus(make_project(corpus={"shards": [shards]}, embedding={"shards_per_group": 12}))
    assert list(read_metadata(artifact)["shard"]) == [shard for shard in range(SHARDS) for _ in range(PAIRS)]
    assert sum(name.startswith("metadata/") for name in artifact.manifest["files"]) == 2
    assert len(json.loads(artifact.file("stats/0.json").read_text())) > 0
