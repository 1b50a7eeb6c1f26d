"""A corpus as DataComp publishes it, of 100,000 rows: planned, searched, fetched where chosen, and
trained on.

Run `make demo`, then `.venv/bin/python -m benchmarks.web_corpus --page benchmarks/plan.md`, for
about three minutes on 2 cores; `--rows 26000 --steps 4` is small.

What is real: the first 24,252 rows are the demo's drawings, with their captions, and image and text
vectors of its encoder. The others are fillers: the caption names two drawings ("shark and filter"),
its vector is the encoder's too, the image vector is the mean of the two drawings' with weights of 3
and 1, and at the URL is the first of them. Images are served over HTTP on loopback from the demo's
tars, one in ten is gone, and only chosen images are fetched. Hits are compared with plain products
of all prompts and all vectors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.methods import write_section
from benchmarks.plan import clock, comparison, machine_of
from react_pipeline.clip import class_prompts, load, publish_base
from react_pipeline.corpus import publish_corpus
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.embedding.vectors import vectors_of
from react_pipeline.extensions.plan import plan_of
from react_pipeline.indexing import Index, build_index, search_all
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, Scratch
from react_pipeline.training import customize

ROOT = Path(__file__).parents[1]
ROWS, PARTS, MIXED_CAPTIONS = 100_000, 10, 20_000
DOMAIN, HITS = "objects", 5
BEGIN, END = "<!-- web-corpus:begin -->", "<!-- web-corpus:end -->"


def rows_of(demo: Project, rows: int) -> tuple[pd.DataFrame, Any, Any]:
    """The table, and the vectors of images and captions (N, D)."""
    embeddings = demo.store.current("corpus_embeddings", ALL)
    real = read_metadata(embeddings)[
        ["caption", "shard", "image_offset", "image_bytes", "image_sha256"]
    ]
    rows = np.arange(embeddings.counts["rows"])
    image, text = (vectors_of(embeddings, side, rows) for side in ("image", "text"))
    chance = np.random.default_rng(0)
    pairs = chance.integers(0, len(real), (MIXED_CAPTIONS, 2))
    mixed = (
        real["caption"].to_numpy()[pairs[:, 0]] + " and " + real["caption"].to_numpy()[pairs[:, 1]]
    ).tolist()
    chosen = chance.integers(0, MIXED_CAPTIONS, max(rows - len(real), 0))
    wanted, place = np.unique(chosen, return_inverse=True)
    encoded = load(demo.store.current("base_checkpoint", ALL).path).encode_texts(
        [mixed[number] for number in wanted]
    )
    first, second = pairs[chosen].T
    between = (
        0.75 * image[first]
        + 0.25 * image[second]
        + 0.02 * chance.standard_normal((len(first), image.shape[1]))
    )
    fillers = real.iloc[first].assign(caption=[mixed[number] for number in chosen])
    table = pd.concat([real, fillers], ignore_index=True)[:rows]
    return (
        table,
        np.concatenate([image, _unit(between)])[:rows],
        np.concatenate([text, encoded.numpy()[place]])[:rows],
    )


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(folder: Path, table: pd.DataFrame, image: Any, text: Any, url: str) -> tuple[Any, Any]:
    """`HEX.parquet` next to `HEX.npz`; returns the vectors as they are stored."""
    folder.mkdir()
    image, text = image.astype(np.float16), text.astype(np.float16)
    similarity = (image.astype(np.float32) * text.astype(np.float32)).sum(axis=1).astype(np.float32)
    table = pd.DataFrame(
        {
            "uid": [f"{row:032x}" for row in table.index],
            "url": [f"{url}/{row}.png" for row in table.index],
            "text": table["caption"],
            "sha256": table["image_sha256"],
            "clip_b32_similarity_score": similarity,
        }
    )
    for number, rows in enumerate(np.array_split(np.arange(len(table)), PARTS)):
        table.iloc[rows].to_parquet(folder / f"{number:032x}.parquet", index=False)
        np.savez(folder / f"{number:032x}.npz", b32_img=image[rows], b32_txt=text[rows])
    return image, text


@contextmanager
def served(tars: Artifact, table: pd.DataFrame) -> Iterator[tuple[str, set[int]]]:
    """Serve the image of every row but one in ten; the URL, and the rows that were asked for."""
    asked: set[int] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            row = int(Path(self.path).stem)
            asked.add(row)
            if row % 10 == 3:
                self.send_error(404)
                return
            of = table.iloc[row]
            with tars.file(f"{of['shard']:05d}.tar").open("rb") as file:
                file.seek(of["image_offset"])
                data = file.read(of["image_bytes"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def project_in(folder: Path, steps: int) -> Project:
    """The demo's project over that corpus."""
    fields = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    fields["domains"], fields["store"], fields["methods"] = (
        "domains",
        "store",
        ["base", "gated-image"],
    )
    (folder / "domains").mkdir()
    shutil.copy(ROOT / "domains" / f"{DOMAIN}.yaml", folder / "domains")
    columns = {"caption_column": "text", "hash_column": "sha256", "layout": "datacomp-b32"}
    download = {"timeout_seconds": 5, "retries": 0, "allow_private_addresses": True}
    fields["corpus"] = {
        "kind": "embeddings",
        "embeddings": "datacomp",
        **columns,
        "download": download,
    }
    fields["retrieval"] |= {
        "modes": ["t2t", "t2i"],
        "k_per_prompt": HITS,
        "same_subject": "keep",  # pairs of the web name no subject
    }
    fields["customization"]["defaults"]["steps"] = steps
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(fields))
    return Project.load(folder / "pipeline.yaml")


def run(folder: Path, rows: int, steps: int, processor_time: bool) -> str:
    """Everything; returns the page's text."""
    demo, now = Project.load(ROOT / "pipeline.yaml"), clock(processor_time)
    table, image, text = rows_of(demo, rows)
    measured: dict[str, float] = {}

    def timed(name: str, call: Any, *given: Any) -> Any:
        started = now()
        found = call(*given)
        measured[name] = now() - started
        return found

    with served(demo.store.current("corpus", ALL), table) as (url, asked):
        image, text = write(folder / "datacomp", table, image, text, url)
        project = project_in(folder, steps)
        plan = plan_of(project, machine_of(project, processor_time))
        assert (plan.rows, plan.problems) == (rows, []), plan
        timed("corpus", publish_corpus, project)
        timed("base_checkpoint", publish_base, project)
        embeddings = timed("corpus_embeddings", embed_corpus, project)
        timed("faiss_index", build_index, project)
        assert not asked
        same = compare(project, embeddings, folder, image, text)
        timed("evaluation_set", publish_evaluation_set, project, DOMAIN)
        retrieved = timed("retrieved_set", retrieve_pairs, project, DOMAIN)
        chosen = pd.read_parquet(retrieved.file("pairs.parquet"))
        assert (
            chosen["image_sha256"].to_numpy() == table["image_sha256"].to_numpy()[chosen["row"]]
        ).all()
        assert not (chosen["row"] % 10 == 3).any()
        trained = timed("customized_checkpoint", customize, project, DOMAIN, "gated-image")
    gone = sum(row % 10 == 3 for row in asked)
    assert trained.counts["steps"] == steps
    head = (
        f"{rows:,} rows; {len(asked):,} images were asked for, of which {gone:,} were gone; "
        f"{len(chosen):,} pairs of `{DOMAIN}`, {steps} steps of `gated-image`. {same}"
    )
    announced = {step.stage: 3_600 * step.cpu_hours for step in plan.steps}
    return f"{head}\n\n{comparison(announced, measured)}"


def compare(project: Project, embeddings: Artifact, folder: Path, image: Any, text: Any) -> str:
    """How the hits of every prompt compare with plain products of all prompts and all vectors."""
    prompts = class_prompts(project.domain(DOMAIN))["prompt"].tolist()
    base = project.store.current("base_checkpoint", ALL)
    asked = load(base.path).encode_texts(prompts).numpy()
    index = Index(
        project.store.current("faiss_index", ALL),
        base.fingerprint,
        embeddings=embeddings,
        device="cpu",
    )
    shares = []
    for side, vectors in (("text", text), ("image", image)):
        similarities = asked @ vectors.astype(np.float32).T
        best = -np.sort(-np.partition(similarities, -HITS, axis=1)[:, -HITS:], axis=1)
        _, rows, record = search_all(index, side, asked, HITS, Scratch(folder / side))
        found = np.take_along_axis(similarities, rows, axis=1)
        shares.append(float(np.isclose(found, best, rtol=0, atol=2e-6).mean()))
    return (
        f"Of {2 * len(asked) * HITS:,} hits ({record['way']}) {np.mean(shares):.4%} are those of "
        "plain products."
    )


def main() -> None:
    """Run, and write the page if one is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on a busy machine: one core, processor seconds",
    )
    parser.add_argument("--page", type=Path, help="gets the table between its markers")
    given = parser.parse_args()
    os.environ["no_proxy"] = "*"
    with tempfile.TemporaryDirectory() as name:
        text = run(Path(name), given.rows, given.steps, given.processor_time)
    print(text)
    if given.page:
        write_section(given.page, text, BEGIN, END)


if __name__ == "__main__":
    main()
