"""A table of URLs whose images wait, beside the same table with every image embedded first.

`python -m benchmarks.images_wait --work DIR` serves images on loopback and lists them in tables of
growing length, captioned as the demo's drawings with a number behind. For each it makes the
retrieved set of the demo's domain `things` from nothing, and does the same with `encode: both` for
the shortest table. Prints wall seconds of each stage, images and bytes that were fetched. An image
is a few colours at random, and no two are near duplicates by the threshold that is set here.
"""

import argparse
import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from react_pipeline.extensions.demo import captions
from react_pipeline.lineage import run
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project

ROOT = Path(__file__).parents[1]
STAGES = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index")
SLUG = "things"


class Served:
    """What was asked of the server: images and bytes."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.images = self.bytes = 0


@contextmanager
def server() -> Iterator[tuple[str, Served]]:
    """Serve an image of 256 pixels at every numbered path; yields address and counts."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.path[1:].isdigit():
                self.send_error(404)
                return
            colours = np.random.default_rng(int(self.path[1:])).integers(0, 256, (4, 4, 3), "uint8")
            image = Image.fromarray(colours).resize((256, 256), Image.Resampling.BICUBIC)
            image.save(data := io.BytesIO(), "JPEG")
            self.send_response(200)
            self.send_header("Content-Length", str(data.tell()))
            self.end_headers()
            self.wfile.write(data.getvalue())
            served.images += 1
            served.bytes += data.tell()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}", served
        web.shutdown()


def write_project(folder: Path, rows: int, encode: str, address: str) -> Project:
    """Write a project over a table of so many rows."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "domains").mkdir(parents=True)
    texts = captions()["caption"].tolist()
    table = {
        "url": [f"{address}/{row}" for row in range(rows)],
        "caption": [f"{texts[row % len(texts)]}, {row // len(texts)}" for row in range(rows)],
    }
    pd.DataFrame(table).to_parquet(folder / "pairs.parquet")
    config = yaml.safe_load((ROOT / "pipeline.yaml").read_text(encoding="utf-8"))
    config["corpus"] = {
        "kind": "urls",
        "urls": [str(folder / "pairs.parquet")],
        "download": {"allow_private_addresses": True},
    }
    config["embedding"] |= {"encode": encode}
    config["retrieval"] |= {"duplicate_similarity": 1.01, "same_subject": "keep"}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(ROOT / "domains" / f"{SLUG}.yaml", folder / "domains")
    return Project.load(folder / "pipeline.yaml")


def measure(project: Project, rows: int, encode: str, served: Served) -> list[Any]:
    """Return a row of the table."""
    before = served.images, served.bytes
    seconds = []
    for stages in (*((stage,) for stage in STAGES), ("evaluation_set", "retrieved_set")):
        began = time.monotonic()
        for stage in stages:
            artifact = run(project, stage, "all" if stage in STAGES else SLUG)
        seconds.append(time.monotonic() - began)
    images, size = served.images - before[0], served.bytes - before[1]
    figures = [f"{rows:,}", encode, *(f"{one:.0f}" for one in seconds), f"{sum(seconds):.0f}"]
    return [*figures, f"{images:,}", f"{size / 1e6:.1f}", f"{artifact.counts['pairs']:,}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    work = options.work.resolve()
    table = []
    with server() as (address, served):
        for encode, all_rows in (("both", options.rows[:1]), ("captions", options.rows)):
            for rows in all_rows:
                project = write_project(work / f"{encode}-{rows}", rows, encode, address)
                table.append(measure(project, rows, encode, served))
                print(*table[-1], flush=True)
    heads = ["rows", "encode", *STAGES, "sets of `things`", "all, s", "images", "MB", "pairs"]
    print(markdown_table(heads, table))


if __name__ == "__main__":
    main()
