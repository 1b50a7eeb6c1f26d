"""Spreading work over Spark: the same results as here, and errors that say the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.drawings import pair, write_shard

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.extensions.predict.predict import predict_shards, shared_arguments
from react_pipeline.extensions.predict.run_folder import Options
from react_pipeline.project.project import Project
from react_pipeline.project.spread import _opened, cluster, spread
from react_pipeline.settings import DistributorConfig
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorpusError, ReactError
from react_pipeline.use.classifier import Classifier

MakeProject = Callable[..., Project]

SPARK = {
    "kind": "spark",
    "master": "local[2]",
    "conf": {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    },
}
SETTINGS = DistributorConfig.model_validate(SPARK)


@pytest.fixture(scope="module", autouse=True)
def _session() -> object:
    pytest.importorskip("pyspark", reason="PySpark is not installed: pip install '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed: apt-get install openjdk-17-jre-headless")
    with _opened(SETTINGS) as session:
        # One for all tests: they use the session that runs.
        yield session


def test_results_come_in_the_order_of_the_items() -> None:
    def square(number: int) -> int:
        return number * number

    with cluster(SETTINGS):
        assert spread(square, range(20), "squares") == [number * number for number in range(20)]
        assert spread(square, [], "nothing") == []
    assert spread(square, [3], "here") == [9]
    from pyspark.sql import SparkSession

    assert SparkSession.getActiveSession()  # one that ran before goes on


def test_an_error_of_a_task_is_the_error_it_would_be_here() -> None:
    def fail(number: int) -> None:
        raise CorpusError(f"data/{number}.tar: broken\nin two lines")

    with cluster(SETTINGS), pytest.raises(CorpusError, match=r"^data/7.tar"):
        spread(fail, [7], "failing")

    def divide(number: int) -> float:
        return 1 / number

    with cluster(SETTINGS), pytest.raises(ReactError, match="dividing: .*ZeroDivisionError"):
        spread(divide, [0], "dividing")


def corpus(directory: Path) -> str:
    """6 shards with two bad images in one."""
    for shard in range(6):
        samples = {str(number): pair("circle", "red", shard * 5 + number) for number in range(5)}
        if shard == 2:
            samples |= dict.fromkeys(("bad", "worse"), {"png": b"no image", "txt": b"a drawing"})
        write_shard(directory / f"{shard}.tar", samples)
    return str(directory / "*.tar")


def prepared(make_project: MakeProject, **sections: object) -> Project:
    project = make_project(**sections)
    publish_corpus(project)
    publish_base(project)
    return project


def same(one: Artifact, other: Artifact) -> None:
    pd.testing.assert_frame_equal(read_metadata(one), read_metadata(other))
    # What was counted in seconds differs.
    files, expected = ({**a.manifest["files"], "groups.jsonl": ""} for a in (one, other))
    assert files == expected
    counts, expected = ({**a.counts, "seconds": 0, "pairs_per_second": 0} for a in (one, other))
    assert counts == expected


@pytest.mark.slow
def test_a_failed_embedding_on_spark_resumes_where_it_was(
    make_project: MakeProject, tmp_path: Path
) -> None:
    shards = corpus(tmp_path / "shards")
    project = prepared(
        make_project, corpus={"shards": [shards], "max_bad_fraction": 0.2}, distributor=SPARK
    )
    with pytest.raises(CorpusError, match=r"2\.tar"):
        embed_corpus(project)
    scratch = project.config.store / ".scratch"
    kept = scratch.glob("*/*/part-*/*/img_emb/*.npy")
    vectors = {path.name: path.stat().st_mtime_ns for path in kept}
    assert 0 < len(vectors) < 6
    artifact = embed_corpus(
        make_project(corpus={"shards": [shards], "max_bad_fraction": 0.5}, distributor=SPARK)
    )
    for name, modified in vectors.items():
        assert artifact.file(f"img_emb/{name}").stat().st_mtime_ns == modified
    anew = embed_corpus(
        prepared(make_project, store="anew", corpus={"shards": [shards], "max_bad_fraction": 0.5})
    )
    assert artifact.fingerprint == anew.fingerprint, "another distributor is no other corpus"
    same(artifact, anew)


def test_shards_are_labelled_on_spark_as_here(retrieved_project: Project, tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", {"one": pair("circle", "red", number)})
    (tmp_path / "3.tar").write_bytes(b"no tar" * 400)
    classifier = Classifier.load("shapes", "base", config=retrieved_project.path)
    arguments = shared_arguments("shapes", "base", retrieved_project.path)
    here, there = tmp_path / "here", tmp_path / "there"
    source, options = str(tmp_path / "*.tar"), Options(workers=0)
    done = predict_shards(classifier, arguments, source, here, options)
    options = replace(options, distributor=SETTINGS)
    assert predict_shards(classifier, arguments, source, there, options) == done
    assert done.used == 3 and done.skipped == {"unreadable_shard": 1}
    for path in sorted(here.glob("labels/*")):
        assert pq.read_table(path).equals(pq.read_table(there / "labels" / path.name))
