"""FAULTS 1 for chosen pairs whose images are fetched: wherever a build is killed, nothing is
fetched a second time.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.processes import killed
from support.ready import CAPTIONS, encoded, write_ready
from support.web import served

from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.retrieval import chosen_pairs
from react_pipeline.store import store

KILLS = {"rows_on_sheet": chosen_pairs, "with_digest": store}
"""Where a build is killed: before the set is written, and before it is published."""


def build_until_killed(path: Path, stage: str, name: str) -> None:
    def dying(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(KILLS[name], name, dying)
    run(Project.load(path), stage, "shapes")


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("stage", ["retrieved_set", "control_set"])
def test_images_that_were_fetched_outlive_every_kill(
    stage: str,
    make_project: Callable[..., Project],
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = {
        f"/{n}.png": encode(draw(SHAPES[n % len(SHAPES)], COLOURS[n // len(SHAPES)], n))
        for n in range(len(CAPTIONS))
    }
    del pictures["/5.png"]
    with served(pictures) as web:
        write_ready(tmp_path / "ready", encoded(tiny_checkpoint, CAPTIONS))
        for path in (tmp_path / "ready" / "metadata").iterdir():
            table = pd.read_parquet(path)
            table["url"] = table["url"].str.replace("http://127.0.0.1:9", web.url)
            table.to_parquet(path, index=False)
        download = {"retries": 0, "allow_private_addresses": True, "timeout_seconds": 20}
        corpus = {
            "kind": "embeddings",
            "embeddings": str(tmp_path / "ready"),
            "download": download,
        }
        project = make_project(corpus=corpus)
        for earlier in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
            run(project, earlier, "all")
        run(project, "evaluation_set", "shapes")
        if stage == "control_set":
            run(project, "retrieved_set", "shapes")
        shutil.copytree(project.config.store, tmp_path / "undisturbed")
        web.asked.clear()

        for name in KILLS:
            killed(build_until_killed, project.path, stage, name)
            assert list(project.store.root.glob(".cache/images/*/*/*"))
            assert not any((project.store.root / stage / "shapes").glob("*/manifest.json"))

        artifact = run(project, stage, "shapes")
        assert set(web.asked.values()) == {1}
        assert (
            not artifact.reused
            and len(list(CollectedPairs(artifact))) == artifact.counts["pairs"] > 0
        )
        assert not list((project.config.store / ".scratch").iterdir())
        undisturbed = run(make_project(store="undisturbed", corpus=corpus), stage, "shapes")
    # This process draws figures without their layout, for speed; the killed one did not.
    files, others = (
        {name: made.manifest["files"][name] for name in made.manifest["files"] if "png" not in name}
        for made in (artifact, undisturbed)
    )
    assert files == others
    assert not [name for name in artifact.manifest["files"] if name.startswith("fetched")]
    counts, expected = (
        {
            name: value
            for name, value in made.counts.items()
            if name != "search" and not name.endswith("seconds")
        }
        for made in (artifact, undisturbed)
    )
    assert counts == expected
