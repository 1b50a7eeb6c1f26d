"""End to end: pairs are retrieved from embeddings that clip-retrieval's own command wrote, which
stay untouched.

Only the images of chosen pairs are fetched, from a web server on loopback where one image in ten is
gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, pair, write_shard
from support.web import Web, served

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.indexing.index import build_index
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs

PAIRS, SHARDS = 120, 2
CLIP_RETRIEVAL = """
import sys
import open_clip
from clip_retrieval.cli import main
if __name__ == "__main__":
    open_clip.add_model_config(sys.argv.pop(1))
    main()
"""


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Pairs served as images, and their shards with URLs, as img2dataset leaves them."""
    monkeypatch.setenv("no_proxy", "*")
    with served({}) as server:
        samples = {
            f"{n:05d}": pair(
                SHAPES[n % 4], COLOURS[n // 4 % 4], n, "jpg", url=f"{server.url}/{n}.jpg"
            )
            for n in range(PAIRS)
        }
        # One image in ten is gone.
        for number, sample in enumerate(samples.values()):
            if number % 10 != 3:
                server.answers[f"/{number}.jpg"] = sample["jpg"]
        for shard in range(SHARDS):
            inside = dict(
                list(samples.items())[shard * PAIRS // SHARDS : (shard + 1) * PAIRS // SHARDS]
            )
            write_shard(tmp_path / "shards" / f"{shard:05d}.tar", inside)
        yield server


@pytest.fixture
def embeddings(web: Web, tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The folder that `clip-retrieval inference` writes."""
    config = json.loads((tiny_checkpoint / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    (tmp_path / "command.py").write_text(CLIP_RETRIEVAL)
    weights = next(tiny_checkpoint.glob("*.safetensors"))
    options = {
        "input_dataset": f"{tmp_path}/shards/{{00000..{SHARDS - 1:05d}}}.tar",
        "output_folder": tmp_path / "ready",
        "input_format": "webdataset",
        "clip_model": f"open_clip:tiny/{weights}",
        "enable_metadata": True,
        "enable_wandb": False,
        "use_jit": False,
        "num_prepro_workers": 1,
        "batch_size": 16,
        "write_batch_size": PAIRS // SHARDS,
        "wds_number_file_per_input_file": PAIRS // SHARDS,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [
            sys.executable,
            str(tmp_path / "command.py"),
            str(tmp_path / "tiny.json"),
            "inference",
            *arguments,
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return tmp_path / "ready"


@pytest.mark.slow
def test_ready_embeddings_give_pairs_though_some_images_are_gone(
    web: Web, embeddings: Path, make_project: Callable[..., Project]
) -> None:
    before = {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()}
    project = make_project(
        corpus={
            "kind": "embeddings",
            "embeddings": str(embeddings),
            "download": {"allow_private_addresses": True},
        }
    )
    corpus = publish_corpus(project)
    publish_base(project)
    vectors = embed_corpus(project)
    build_index(project)
    assert (corpus.counts["pairs"], corpus.counts["shards"]) == (PAIRS, SHARDS)
    assert vectors.counts["encoder_similarity"] > 0.999
    assert not web.asked

    publish_evaluation_set(project, "shapes")
    retrieved = retrieve_pairs(project, "shapes")
    urls = read_metadata(vectors, ["url"])["url"]
    chosen = pd.read_parquet(retrieved.file("pairs.parquet"))
    numbers = [int(url.rpartition("/")[2].removesuffix(".jpg")) for url in urls[chosen["row"]]]
    assert retrieved.counts["pairs"] == len(numbers) > 0
    assert not [number for number in numbers if number % 10 == 3]
    lost = {path for path in web.asked if int(path[1:].removesuffix(".jpg")) % 10 == 3}
    assert retrieved.counts["not_collected"] == {"http_404": len(lost)} and lost
    captions = read_metadata(vectors, ["caption"])["caption"]
    for row, image, caption, _ in CollectedPairs(retrieved):
        assert image == web.answers[urls[row].removeprefix(web.url)] and caption == captions[row]

    # Made once: a second materialization asks for nothing.
    total = web.asked.total()
    assert retrieve_pairs(project, "shapes").fingerprint == retrieved.fingerprint
    assert web.asked.total() == total

    assert {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()} == before
