"""FAULTS 1: wherever embedding, a download or a collection of pairs is killed, the next run goes on
where it was and ends as if nothing had happened; nobody goes on fetching, and nothing is fetched a
second time.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode, pair, write_shard
from support.processes import die, killed, started
from support.ready import CAPTIONS, encoded, write_ready
from support.stages import run_corpus
from support.upkeep import with_base
from support.vectors import read_vectors
from support.web import send, served

from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.extensions.sources.downloads import UrlSource
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.retrieval import chosen_pairs
from react_pipeline.store import MissingArtifact, ReactError, Scratch, store

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


URLS, ANSWERED = 60, 20
THREADS = 4
SIGNALS = {"run": signal.SIGKILL, "run, gently": signal.SIGINT, "run, politely": signal.SIGTERM}


def source(pool: Path, processes: int) -> UrlSource:
    download = {"threads": THREADS, "processes": processes, "retries": 0, "timeout_seconds": 20}
    download["allow_private_addresses"] = True
    return UrlSource(
        ReadyEmbeddings.model_validate({"embeddings": "x", "download": download}), pool
    )


def table(url: str) -> pd.DataFrame:
    urls = [f"{url}/{number}" for number in range(URLS)]
    return pd.DataFrame({"row": range(URLS), "url": urls, "caption": "a"})


def fetch(url: str, pool: Path, processes: int) -> None:
    # Who began the test may ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        list(source(pool, processes).fetch(table(url)))
    except ReactError as error:
        pool.with_name("error").write_text(str(error))


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize(
    ("victim", "processes"), [("run", 1), *((victim, 2) for victim in (*SIGNALS, "process"))]
)
def test_what_was_had_before_a_kill_is_not_fetched_again(
    tmp_path: Path, victim: str, processes: int
) -> None:
    go_on = threading.Event()

    def answer(handler: Any, _before: int) -> None:
        if web.asked.total() > ANSWERED:
            go_on.wait(900)
        send(handler, encode(draw("circle", "red", int(handler.path[1:]))))

    with served({f"/{n}": answer for n in range(URLS)}) as web:
        run = started(fetch, web.url, tmp_path / "pool", processes)
        deadline = time.monotonic() + 900
        while web.asked.total() <= ANSWERED and time.monotonic() < deadline:
            time.sleep(0.02)
        process = psutil.Process(run.pid)
        left = process.children(recursive=True)
        workers = [one for one in process.children() if "popen_loky" in str(one.cmdline())]
        assert len(workers) == processes
        pid = workers[0].pid if victim == "process" else run.pid
        os.kill(pid, SIGNALS.get(victim, signal.SIGKILL))
        run.join(900)
        if victim == "process":
            assert "corpus.download" in (tmp_path / "error").read_text()
        assert not psutil.wait_procs(left, timeout=900)[1]

        go_on.set()
        files = [path for path in (tmp_path / "pool").glob("*/*/*") if not path.suffix]
        asked = Counter(web.asked)
        assert 5 < len(files) <= ANSWERED
        images = [image for _, image in source(tmp_path / "pool", 1).fetch(table(web.url))]
        assert images == [encode(draw("circle", "red", n)) for n in range(URLS)]
        again = {path for path in web.asked if web.asked[path] > 1}
        assert len(again) <= 2 * THREADS * processes
        assert web.asked.total() - asked.total() == URLS - len(files)


KILLS = {"rows_on_sheet": chosen_pairs, "with_digest": store}
"""Where a build is killed: before the set is written, and before it is published."""


def build_until_killed(path: Path, stage: str, name: str) -> None:
    setattr(KILLS[name], name, die)
    run(Project.load(path), stage, "shapes")


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("stage", ["retrieved_set", "control_set"])
def test_images_that_were_fetched_outlive_every_kill(
    stage: str,
    make_project: Callable[..., Project],
    tmp_path: Path,
    tiny_checkpoint: Path,
) -> None:
    numbers = {*range(len(CAPTIONS))} - {5}
    pictures = {f"/{n}.png": encode(draw(SHAPES[n % 4], COLOURS[n // 4], n)) for n in numbers}
    with served(pictures) as web:
        write_ready(tmp_path / "ready", encoded(tiny_checkpoint, CAPTIONS), web=web.url)
        download = {"retries": 0, "allow_private_addresses": True, "timeout_seconds": 20}
        ready = str(tmp_path / "ready")
        corpus = {"kind": "embeddings", "embeddings": ready, "download": download}
        project = make_project(corpus=corpus)
        run_corpus(project)
        for earlier in ("evaluation_set", "retrieved_set")[: 1 + (stage == "control_set")]:
            run(project, earlier, "shapes")
        shutil.copytree(project.config.store, tmp_path / "undisturbed")
        web.asked.clear()

        for name in KILLS:
            killed(build_until_killed, project.path, stage, name)
            assert list(project.store.root.glob(".cache/images/*/*/*"))
            assert not any((project.store.root / stage / "shapes").glob("*/manifest.json"))

        artifact = run(project, stage, "shapes")
        assert set(web.asked.values()) == {1}
        assert not artifact.reused
        assert len(list(CollectedPairs(artifact))) == artifact.counts["pairs"] > 0
        assert not list((project.config.store / ".scratch").iterdir())
        undisturbed = run(make_project(store="undisturbed", corpus=corpus), stage, "shapes")
    # This process draws figures without their layout, for speed; the killed one did not.
    # Seconds and what was searched depend on the run.
    for part, varying in (("files", ".png"), ("counts", ("seconds", "search"))):
        one, other = (
            {
                name: value
                for name, value in made.manifest[part].items()
                if not name.endswith(varying)
            }
            for made in (artifact, undisturbed)
        )
        assert one == other
