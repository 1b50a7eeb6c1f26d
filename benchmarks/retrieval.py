"""All prompts of a domain against the images of a corpus, cell by cell and exactly, beside FAISS.

Run `.venv/bin/python -m benchmarks.retrieval` from the repository's root; `--page
benchmarks/results.md` writes the table into that page. `--quick` shows on 20,000 vectors that it
works. With 100 classes it takes about 7 minutes on 2 cores.

Vectors are clustered (`benchmarks.clustered` says how), 512 numbers wide; images are searched with
texts, which form another cloud. FAISS' ways are timed with some of the prompts, in the process that
times ours, and scaled. Ratios are of seconds of a core, since a machine may be shared. The floor is
what the products alone would take at the rate of a matrix product of the same type, measured in the
same process. Making the vectors is not measured, nor is encoding prompts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import yaml

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from benchmarks.pages import make_parser, parse_sizes, show_section
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
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project

Row = dict[str, Any]

MIB = 1 << 20
WIDTH, TEMPLATES, HITS = 512, 80, 10
BEGIN, END = "<!-- retrieval-prompts:begin -->", "<!-- retrieval-prompts:end -->"
SOME_PROMPTS = 1_600


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
    """Time every way; seconds are those of a core for all prompts."""
    prompts = Cloud(rows, WIDTH).prompts(classes, TEMPLATES)
    index, rerank = read_index(path), built["rerank"] or 1
    set_parameters(index, built["parameters"])
    flat, some = faiss.IndexFlatIP(WIDTH), prompts[: min(SOME_PROMPTS, len(prompts))]
    for _, block in stored.blocks():
        flat.add(block.astype(np.float32))
    fast = product_precision(len(prompts), "cpu")
    ways: dict[str, Row] = {}

    def timed(name: str, call: Callable[[Any], Any], asked: Any) -> Any:
        started = time.process_time()
        found = call(asked)
        scale = len(prompts) / len(asked)
        ways[name] = {"cpu": (time.process_time() - started) * scale, "prompts": len(asked)}
        return found

    def one_by_one(asked: Any) -> Any:
        return find_rows(index, asked, HITS, rerank, stored)

    one_by_one(some[:80])
    by_index = timed("one by one", one_by_one, some)
    lists = timed(
        "cell by cell", lambda asked: cell_hits(index, asked, HITS, rerank, stored), prompts
    )
    by_flat = timed("IndexFlat", lambda asked: find_rows(flat, asked, HITS), some)
    whole = timed("exact", lambda asked: exact_hits(stored, asked, HITS), prompts)
    operations = 2 * len(prompts) * rows * WIDTH
    return {
        "rows": rows,
        "prompts": len(prompts),
        "key": built["key"],
        "parameters": built["parameters"],
        "recall": built["recall_at_10"],
        "type": fast,
        "threads": torch.get_num_threads(),
        "ways": ways,
        "floors": {"exact": operations / rate(fast), "IndexFlat": operations / rate("fp32")},
        "same_as_index": same(lists, by_index),
        "same_as_flat": same(whole, by_flat),
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


def table(row: Row) -> str:
    """What `ask` measured."""
    ways, floors = row["ways"], row["floors"]
    lines = []
    for name, way in ways.items():
        is_exact, cpu = name in floors, way["cpu"]
        beside = ways["IndexFlat" if is_exact else "one by one"]
        recall = "1.000" if is_exact else f"{row['recall']:.3f}"
        floor = f"{floors[name] / cpu:.2f}" if is_exact else "–"
        faster = f"{beside['cpu'] / cpu:.2f}"
        lines.append([name, f"{cpu:,.1f}", faster, recall, floor, f"{way['prompts']:,}"])
    heads = ["way", "seconds of a core", "times faster than FAISS", f"recall@{HITS}"]
    text = (
        f"{row['prompts']:,} prompts, {HITS} hits each, against {row['rows']:,} vectors "
        f"({row['vectors_mib']:,.0f} MiB mapped), `{row['key']}` at {row['parameters']}, "
        f"{row['threads']} threads, fastest type {row['type']}. Hits cell by cell as similar as "
        f"the index's: {row['same_as_index']:.4%}; of exact search as `IndexFlat`'s: "
        f"{row['same_as_flat']:.4%}. Ways timed with fewer prompts are scaled."
    )
    return f"{text}\n\n{markdown_table([*heads, 'share of the floor', 'timed with'], lines)}"


def main() -> None:
    """Measure one size."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="for vectors and index; else a temporary one")
    given = parse_sizes(parser, rows=(1_000_000, 20_000), classes=(100, 50))
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        text = table(measure(Path(name), given.rows, given.classes))
    show_section(text, given.page, BEGIN, END)


if __name__ == "__main__":
    main()
