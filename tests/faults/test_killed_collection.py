"""FAULTS 1 for chosen pairs whose images are fetched: wherever a build is killed, nothing is
fetched a second time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.processes import die, killed
from support.ready import CAPTIONS, encoded, write_ready
from support.stages import run_corpus
from support.web import served

from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.retrieval import chosen_pairs
from react_pipeline.store import store

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
