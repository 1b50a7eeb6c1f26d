"""All prompts of a domain against the images of a corpus, cell by cell and exactly, beside FAISS.

Run `.venv/bin/python -m benchmarks.retrieval` from the repository's root; `--page
benchmarks/results.md` writes the table into that page. `--quick` shows on 20,000 vectors that it
works. With 100 classes it takes about 7 minutes on 2 cores.

Vectors are clustered (`benchmarks.clustered` says how), 512 numbers wide; images are searched with
texts, which form another cloud. FAISS' ways are timed with some of the prompts, `IndexFlat` also
with a million rows at most, in the process that times ours, and scaled. Ratios are of seconds of a
core, since a machine may be shared. The floor is what the products alone would take at the rate of
a matrix product of the same type, measured in the same process. Hits are compared where both ways
were run. Making the vectors is not measured, nor is encoding prompts.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import psutil
import torch
import yaml

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from benchmarks.pages import make_parser, show_section
from react_pipeline.clip import DTYPES
from react_pipeline.embedding import StoredVectors
from react_pipeline.indexing import (
    build_side,
    cell_hits,
    cells_for,
    draw_queries,
    exact_hits,
    find_rows,
    product_precision,
    read_index,
    set_parameters,
)
from react_pipeline.project import Project

Row = dict[str, Any]

MIB = 1 << 20
WIDTH, TEMPLATES, HITS = 512, 80, 10
BEGIN, END = "<!-- retrieval-prompts:begin -->", "<!-- retrieval-prompts:end -->"
SOME_PROMPTS, FLAT_ROWS = 1_600, 1_000_000


def measure(folder: Path, rows: int, classes: int) -> Row:
    """Build the index of cells over clustered vectors, and ask it all prompts."""
    path = folder / "pipeline.yaml"
    corpus, encoder = {"kind": "webdataset", "shards": ["none.tar"]}, {"pretrained": "none"}
    path.write_text(yaml.safe_dump({"store": "store", "corpus": corpus, "encoder": encoder}))
    project = Project.load(path)
    publish_parents(project, rows)
    embeddings = publish_embeddings(project, Cloud(rows, WIDTH).pairs(), WIDTH)
    queries = draw_queries(embeddings, 2 * 200)
    key = f"IVF{cells_for(rows)},SQfp16"
    stored = StoredVectors(embeddings, "image")
    built = build_side(project.config.index, key, stored, queries, folder)
    return ask(stored, built, folder / "image.index", rows, classes)


def ask(stored: StoredVectors, built: Row, path: Path, rows: int, classes: int) -> Row:
    """Time every way; seconds are those of all prompts."""
    prompts = Cloud(rows, WIDTH).prompts(classes, TEMPLATES)
    index, rerank = read_index(path), built["rerank"] or 1
    set_parameters(index, built["parameters"])
    flat, some = faiss.IndexFlatIP(WIDTH), prompts[: min(SOME_PROMPTS, len(prompts))]
    flat_rows = min(rows, FLAT_ROWS)
    for first, block in stored.blocks():
        flat.add(block[: max(flat_rows - first, 0)].astype(np.float32))
    fast = product_precision(len(prompts), "cpu")
    ways: dict[str, Row] = {}

    def measure(name: str, call: Callable[[], Any], asked: int, scale: float = 1) -> Any:
        with peak_memory() as peak:
            started, cpu = time.perf_counter(), time.process_time()
            found = call()
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        scale *= len(prompts) / asked
        ways[name] = {
            "seconds": seconds * scale,
            "cpu": cpu * scale,
            "prompts": asked,
            "mib": peak[0] / MIB,
        }
        return found

    def exact(asked: Any, hits: int = HITS) -> Any:
        return exact_hits(stored, asked, hits)

    def in_lists(asked: Any, hits: int = HITS) -> Any:
        return cell_hits(index, asked, hits, rerank, stored)

    find_rows(index, some[:80], HITS, rerank, stored)
    one_by_one = measure(
        "one by one", lambda: find_rows(index, some, HITS, rerank, stored), len(some)
    )
    lists = measure("cell by cell", lambda: in_lists(prompts), len(prompts))
    flat_hits = measure(
        "IndexFlat", partial(find_rows, flat, some, HITS), len(some), scale=rows / flat_rows
    )
    del flat
    measure("exact", lambda: exact(prompts), len(prompts))
    whole = exact(some) if flat_rows == rows else None
    operations = 2 * len(prompts) * rows * WIDTH
    floors = {name: operations / rate(name) for name in {fast, "fp32"}}
    return {
        "rows": rows,
        "prompts": len(prompts),
        "key": built["key"],
        "parameters": built["parameters"],
        "recall": built["recall_at_10"],
        "type": fast,
        "threads": torch.get_num_threads(),
        "ways": ways,
        "floors": floors,
        "same_as_index": same(lists, one_by_one),
        "same_as_flat": same(whole, flat_hits) if whole else None,
        "vectors_mib": 2 * rows * WIDTH / MIB,
    }


def same(found: Any, wanted: Any) -> float:
    """Share of hits that are as similar as those wanted, to the sixth digit: equal rows, or rows
    that are tied.
    """
    return float(np.isclose(found[0][: len(wanted[0])], wanted[0], atol=2e-6).mean())


def rate(precision: str) -> float:
    """Operations per second of a core of a matrix product."""
    left, right = (torch.randn(4_096, WIDTH).to(DTYPES[precision]) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.process_time()
        torch.mm(left, right[:1_024].T)
        best = min(best, time.process_time() - started)
    return 2 * 4_096 * 1_024 * WIDTH / best


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most bytes of its own, mapped files not counted, that this process took within; known on
    leaving.
    """
    process, peak, ended = psutil.Process(), [0], threading.Event()

    def own() -> int:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)

    before = own()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], own() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def table(row: Row) -> str:
    """What `ask` measured."""
    ways, floors = row["ways"], row["floors"]
    lines = []
    for name, way in ways.items():
        beside = ways["IndexFlat" if name.startswith(("exact", "IndexFlat")) else "one by one"]
        exact = name.startswith("exact") or name == "IndexFlat"
        floor = floors["fp32" if name == "IndexFlat" else row["type"]]
        cpu = way["cpu"]
        lines.append(
            {
                "way": name,
                "seconds of a core": f"{cpu:,.1f}",
                "times faster than FAISS": f"{beside['cpu'] / cpu:.2f}",
                "recall@10": "1.000" if exact else f"{row['recall']:.3f}",
                "share of the floor": f"{floor / cpu:.2f}" if exact else "–",
                "memory, MiB": f"{way['mib']:,.0f}",
                "timed with": f"{way['prompts']:,}",
            }
        )
    flat = row["same_as_flat"]
    text = (
        f"{row['prompts']:,} prompts, {HITS} hits each, against {row['rows']:,} vectors "
        f"({row['vectors_mib']:,.0f} MiB mapped), `{row['key']}` at {row['parameters']}, "
        f"{row['threads']} threads, fastest type {row['type']}. Hits cell by cell as similar as "
        f"the index's: {row['same_as_index']:.4%}; of exact search as `IndexFlat`'s: "
        f"{'not compared' if flat is None else f'{flat:.4%}'}."
    )
    text += (
        " Ways timed with fewer prompts (`IndexFlat` also with a million rows at most) are scaled."
    )
    return f"{text}\n\n{pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)}"


def main() -> None:
    """Measure one size."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100, help=f"of {TEMPLATES} prompts each")
    parser.add_argument("--folder", type=Path, help="for vectors and index; else a temporary one")
    parser.add_argument("--quick", action="store_true", help="20,000 vectors and 50 classes")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.classes = 20_000, 50
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        text = table(measure(Path(name), given.rows, given.classes))
    show_section(text, given.page, BEGIN, END)


if __name__ == "__main__":
    main()
