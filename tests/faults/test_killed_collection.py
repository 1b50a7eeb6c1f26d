"""FAULTS 1 for chosen pairs whose images are fetched: wherever a build is killed, nothing is fetched a second time."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support_drawings import COLOURS, SHAPES, draw, encode
from support_ready import CAPTIONS, encoded, write_ready
from support_web import keep_img2dataset_loaded, served

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.collect import read_pairs
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.indexing.index import build_index
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.control import draw_control
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.artifacts import Artifact

BUILDS: dict[str, Callable[[Project, str], Artifact]] = {"retrieved_set": retrieve_pairs, "control_set": draw_control}
COMMAND = """
import json, os, signal, sys
from react_pipeline.retrieval import retrieve; from react_pipeline.store import store
from react_pipeline.project.project import Project
from react_pipeline.retrieval import control
from react_pipeline.corpus.image_source import UrlSource

def killed(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

path, stage = sys.argv[1:]
project = Project.load(path)
build = {"retrieved_set": retrieve.retrieve_pairs, "control_set": retrieve.draw_control}[stage]
staging = project.store.root / ".staging"
modules = {"retrieved_set": retrieve, "control_set": control}
# One start of Python for all: each build is a process of its own all the same.
for place, name in ((modules[stage], "finish"), (UrlSource, "discard"), (store.Store, "_publish")):
    child = os.fork()
    if not child:
        setattr(place, name, killed)
        build(project, "shapes")
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (left,) = staging.iterdir()
    published = any(project.store.directory(stage, "shapes").glob("*/manifest.json"))
    told = [name, code, (left / "fetched").exists(), (left / "finished.json").exists(), published]
    print(json.dumps(told), flush=True)
"""
LEFT = [
    # Nothing is let go before what was made of it is complete.
    ["finish", -signal.SIGKILL, True, False, False],
    ["discard", -signal.SIGKILL, True, True, False],
    ["_publish", -signal.SIGKILL, False, True, False],
]
"""Where each build was killed, how it ended, what it left: fetched images, the marker, anything published."""


@pytest.mark.parametrize("stage", BUILDS)
def test_images_that_were_fetched_outlive_every_kill(
    stage: str,
    make_project: Callable[..., Project],
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_img2dataset_loaded(monkeypatch)
    pictures = {
        f"/{n}.png": encode(draw(SHAPES[n % len(SHAPES)], COLOURS[n // len(SHAPES)], n)) for n in range(len(CAPTIONS))
    }
    del pictures["/5.png"]
    with served(pictures) as web:
        write_ready(tmp_path / "ready", encoded(tiny_checkpoint, CAPTIONS))
        for path in (tmp_path / "ready" / "metadata").iterdir():
            table = pd.read_parquet(path)
            table["url"] = table["url"].str.replace("http://127.0.0.1:9", web.url)
            table.to_parquet(path, index=False)
        download = {"retries": 0, "allow_private_addresses": True, "timeout_seconds": 20}
        corpus = {"kind": "embeddings", "shards": [], "embeddings": str(tmp_path / "ready"), "download": download}
        project = make_project(corpus=corpus)
        for publish in (publish_corpus, publish_base, embed_corpus, build_index):
            publish(project)
        publish_evaluation_set(project, "shapes")
        if stage == "control_set":
            retrieve_pairs(project, "shapes")
        shutil.copytree(project.config.store, tmp_path / "undisturbed")
        web.asked.clear()

        command = [sys.executable, "-c", COMMAND, str(project.path), stage]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        assert [json.loads(line) for line in done.stdout.splitlines()] == LEFT

        artifact = BUILDS[stage](project, "shapes")
        assert len(web.asked) > 1 and set(web.asked.values()) == {1}
        assert not artifact.reused and len(list(read_pairs(artifact))) == artifact.counts["pairs"] > 0
        assert not list((project.config.store / ".staging").iterdir())
        undisturbed = BUILDS[stage](make_project(store="undisturbed", corpus=corpus), "shapes")
    assert artifact.manifest["files"] == undisturbed.manifest["files"]
    assert not [name for name in artifact.manifest["files"] if name.startswith("fetched")]
    assert artifact.counts == {name: value for name, value in undisturbed.counts.items() if name != "seconds"}
