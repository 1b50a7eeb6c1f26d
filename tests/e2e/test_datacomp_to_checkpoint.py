"""End to end: a corpus as DataComp publishes it becomes a customized checkpoint, its vectors read
where they are.

Only the images of chosen pairs are fetched, from a web server on loopback of which one image in ten
is gone and one in ten is another one than its hash says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.ready import encoded, paired, write_datacomp
from support.web import Web, served
from typer.testing import CliRunner

from react_pipeline.clip.base import publish_base
from react_pipeline.clip.model import load
from react_pipeline.clip.prompts import class_prompts
from react_pipeline.commands.cli import app
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.indexing.index import Index, build_index, search_all
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.control import draw_control
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store import Scratch
from react_pipeline.training.customization import customize

PAIRS = 3_000
IMAGES = [encode(draw(SHAPES[n % 4], COLOURS[n // 4 % 4], n), "jpg") for n in range(64)]
GONE, CHANGED = 3, 7


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    answers = {
        f"/{n}.jpg": IMAGES[(n + (n % 10 == CHANGED)) % 64] for n in range(PAIRS) if n % 10 != GONE
    }
    with served(answers) as server:
        yield server


@pytest.mark.slow
def test_datacomp_becomes_a_customized_checkpoint(
    web: Web, tmp_path: Path, tiny_checkpoint: Path, make_project: Callable[..., Project]
) -> None:
    captions = [f"a {COLOURS[n // 4 % 4]} {SHAPES[n % 4]} {n}" for n in range(PAIRS)]
    text, urls = encoded(tiny_checkpoint, captions), [f"{web.url}/{n}.jpg" for n in range(PAIRS)]
    sha256 = [hashlib.sha256(IMAGES[n % 64]).hexdigest() for n in range(PAIRS)]
    table = write_datacomp(tmp_path / "datacomp", text, captions, urls, parts=3, sha256=sha256)
    project = make_project(
        corpus={
            **{
                "kind": "embeddings",
                "embeddings": "datacomp",
                "layout": "datacomp-b32",
            },
            **{"caption_column": "text", "hash_column": "sha256"},
            "download": {"timeout_seconds": 3, "retries": 0, "allow_private_addresses": True},
        }
    )
    planned = CliRunner().invoke(app, ["plan", "--config", str(project.path), "--json"])
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.output)
    assert (plan["rows"], plan["problems"]) == (PAIRS, [])

    publish_corpus(project)
    publish_base(project)
    embeddings = embed_corpus(project)
    assert embeddings.counts["converted"] == ["not_npy"]
    build_index(project)
    assert not web.asked

    # What the pipeline finds is what comparing every published vector finds.
    clip = load(tiny_checkpoint)
    prompts = clip.encode_texts(class_prompts(project.domain("shapes"))["prompt"].tolist()).numpy()
    index = Index(
        project.store.current("faiss_index", "all"),
        project.store.current("base_checkpoint", "all").fingerprint,
        embeddings=embeddings,
        device="cpu",
    )
    for side, vectors in (("text", text), ("image", paired(text).astype(np.float16))):
        similarities = prompts @ vectors.astype(np.float32).T
        exact = -np.sort(-similarities, axis=1)[:, :10]
        found, rows, record = search_all(index, side, prompts, 10, Scratch(tmp_path / side))
        assert record["way"] == "exact"
        # Of pairs that are equally near, up to rounding, either may be found.
        assert np.allclose(np.take_along_axis(similarities, rows, axis=1), exact, rtol=0, atol=2e-6)
        assert np.allclose(found, exact, rtol=0, atol=1e-5)
        assert all(len(set(hits)) == 10 for hits in rows.tolist())

    publish_evaluation_set(project, "shapes")
    retrieved = retrieve_pairs(project, "shapes")
    assert set(retrieved.counts["search"]["t2t"].items()) >= {
        ("way", "exact"),
        ("recall_at_10", 1.0),
    }
    chosen = pd.read_parquet(retrieved.file("pairs.parquet"))
    assert len(chosen) == retrieved.counts["pairs"] > 0
    assert not set(chosen["row"] % 10) & {GONE, CHANGED}
    assert chosen["image_sha256"].tolist() == [sha256[row] for row in chosen["row"]]
    assert set(retrieved.counts["not_collected"]) <= {"http_404", "hash_mismatch"}
    assert len(web.asked) < PAIRS / 4
    assert all(table["url"][row] == f"{web.url}/{row}.jpg" for row in chosen["row"])

    assert load(customize(project, "shapes", "locked-text").path).dimension == 32
    assert draw_control(project, "shapes").counts["pairs"] > 0
    measured = json.loads(
        CliRunner().invoke(app, ["plan", "--config", str(project.path), "--json"]).output
    )
    assert measured["steps"][2]["measured_hours"] is not None
