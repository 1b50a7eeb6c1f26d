"""Embedding on a cluster of its own processes, whose driver is killed outright."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import pair, write_shard

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.project.project import Project
from react_pipeline.store.errors import MissingArtifact

pytestmark = pytest.mark.slow

SHARDS, PAIRS = 40, 12
COMMAND = """
import sys
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.project.project import Project
embed_corpus(Project.load(sys.argv[1]))
"""
CLUSTER = {
    "kind": "spark",
    # Two executors, each a Java process of its own with Python processes of its own.
    "master": "local-cluster[2,1,512]",
    "conf": {
        "spark.executor.memory": "512m",
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    },
}


@pytest.fixture
def shards(tmp_path: Path) -> str:
    for shard in range(SHARDS):
        samples = {
            f"{shard:02d}{n:02d}": pair("circle", "red", shard * PAIRS + n) for n in range(PAIRS)
        }
        write_shard(tmp_path / "shards" / f"{shard:02d}.tar", samples)
    return str(tmp_path / "shards" / "*.tar")


def prepared(project: Project) -> Project:
    publish_corpus(project)
    publish_base(project)
    return project


def test_a_killed_driver_is_picked_up_and_end_is_local_one(
    make_project: Callable[..., Project], shards: str
) -> None:
    pytest.importorskip("pyspark", reason="PySpark is not installed: pip install '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed: apt-get install openjdk-17-jre-headless")
    local = embed_corpus(prepared(make_project(store="local", corpus={"shards": [shards]})))
    project = prepared(
        make_project(store="cluster", corpus={"shards": [shards]}, distributor=CLUSTER)
    )
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(project.path)])
    scratch = project.config.store / ".scratch"
    deadline = time.monotonic() + 900
    while process.poll() is None and len(list(scratch.glob("*/*/part-*/record.json"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(MissingArtifact):
        project.store.current("corpus_embeddings", "all")
    kept = scratch.glob("*/*/part-*/*/img_emb/*.npy")
    vectors = {path.name: path.stat().st_mtime_ns for path in kept}
    assert 3 <= len(vectors) < SHARDS

    subprocess.run([sys.executable, "-c", COMMAND, str(project.path)], check=True, timeout=900)
    artifact = project.store.current("corpus_embeddings", "all")
    for name, modified in vectors.items():
        assert artifact.file(f"img_emb/{name}").stat().st_mtime_ns == modified
    pd.testing.assert_frame_equal(read_metadata(artifact), read_metadata(local))
    for name, recorded in local.manifest["files"].items():
        if name.endswith((".npy", ".parquet")):
            assert artifact.manifest["files"][name] == recorded
    assert set(artifact.manifest["files"]) == set(local.manifest["files"])
