"""End to end: embeddings that clip-retrieval's own command wrote are taken as they are.

That only the images of chosen pairs are fetched is in `extensions/sources/test_images_wait.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.drawings import COLOURS, SHAPES, pair, write_shard

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.indexing.index import build_index
from react_pipeline.project.project import Project

PAIRS, SHARDS = 120, 2
URL = "http://127.0.0.1:9/{}.jpg"
CLIP_RETRIEVAL = """
import sys
import open_clip
from clip_retrieval.cli import main
if __name__ == "__main__":
    open_clip.add_model_config(sys.argv.pop(1))
    main()
"""


@pytest.fixture
def embeddings(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The folder that `clip-retrieval inference` writes, of shards as img2dataset leaves them."""
    for shard in range(SHARDS):
        samples = {
            f"{n:05d}": pair(SHAPES[n % 4], COLOURS[n // 4 % 4], n, "jpg", url=URL.format(n))
            for n in range(shard * PAIRS // SHARDS, (shard + 1) * PAIRS // SHARDS)
        }
        write_shard(tmp_path / "shards" / f"{shard:05d}.tar", samples)
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
def test_embeddings_of_clip_retrieval_are_searched_as_they_are(
    embeddings: Path, make_project: Callable[..., Project]
) -> None:
    before = {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()}
    project = make_project(corpus={"kind": "embeddings", "embeddings": str(embeddings)})
    corpus = publish_corpus(project)
    publish_base(project)
    vectors = embed_corpus(project)
    assert build_index(project).counts["rows"] == PAIRS
    assert (corpus.counts["pairs"], corpus.counts["shards"]) == (PAIRS, SHARDS)
    assert vectors.counts["encoder_similarity"] > 0.999
    table = read_metadata(vectors, ["url", "caption"])
    assert set(table["url"]) == {URL.format(n) for n in range(PAIRS)}
    assert table["caption"].str.startswith("a drawing of a ").all()
    assert {path: path.read_bytes() for path in embeddings.rglob("*") if path.is_file()} == before
