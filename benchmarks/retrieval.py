"""The index over corpora of several sizes: what it costs, what it finds, how fast, against exact
and published ways.

Run `.venv/bin/python -m benchmarks.retrieval` from the repository's root; `--page
benchmarks/results.md` writes the tables into that page, between the markers that `--section`
names. `--quick` shows on 20,000 vectors that it works. All prompts alone (small with `--sizes 20000
--classes 25`) take about 7 minutes on 2 cores:

    python -m benchmarks.retrieval --prompts-only --sizes 1000000 --classes 100 \
        --section retrieval-prompts --page benchmarks/results.md

Vectors are clustered (`benchmarks.clustered` says how), 512 numbers wide; images are searched with
texts, which form another cloud. Each size and key is built in a process of its own and searched in
another, so that their memory is theirs. How all prompts are searched is in
`benchmarks.all_prompts`. Exact search and the reference's way are timed in the process that times
ours: a search is one call for all prompts; the reference searches class by class and leaves FAISS'
parameters at their defaults (one cell of an IVF, efSearch 16 of a graph) with no re-ranking. Making
the vectors is not measured, nor is encoding prompts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import psutil
import yaml
from tqdm import tqdm

from benchmarks.all_prompts import ask, table
from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from benchmarks.methods import write_section
from benchmarks.retrieval_tables import MIB, Row, index_table
from react_pipeline.indexing import (
    GRAPH_KEY,
    GRAPH_ROWS,
    Neighbours,
    StoredVectors,
    build_side,
    cells_for,
    draw_queries,
    find_rows,
    read_index,
    search_parameters,
    set_parameters,
)
from react_pipeline.project import Project
from react_pipeline.stage import ALL

WIDTH, HITS = 512, 10
TIMED_CLASSES, TEMPLATES, PROMPT_CLASSES = 50, 80, 1_000
EXACT_PROMPTS = 400
ROOT = Path(__file__).parents[1]


def default_keys(rows: int) -> list[str]:
    """Exact, a graph where `auto` would take one, cells, and codes."""
    cells = cells_for(rows)
    graph = [GRAPH_KEY] if rows <= GRAPH_ROWS else []
    return ["Flat", *graph, f"IVF{cells},SQfp16", f"OPQ64_{WIDTH},IVF{cells}_HNSW32,PQ64x8"]


def project_in(folder: Path, key: str = "auto") -> Project:
    """A project whose store is in the folder, with a key of the index."""
    path = folder / "pipeline.yaml"
    corpus, encoder = {"kind": "webdataset", "shards": ["none.tar"]}, {"pretrained": "none"}
    fields = {"store": "store", "corpus": corpus, "encoder": encoder, "index": {"key": key}}
    path.write_text(yaml.safe_dump(fields))
    return Project.load(path)


def make(folder: Path, rows: int) -> Row:
    """Publish the vectors."""
    project = project_in(folder)
    publish_parents(project, rows)
    publish_embeddings(project, Cloud(rows, WIDTH).pairs(), WIDTH)
    return {}


def build(folder: Path, rows: int, key: str) -> Row:
    """Build the index over the images with one key."""
    project, path = project_in(folder), file_of(folder, key)
    embeddings = project.store.current("corpus_embeddings", ALL)
    before = psutil.Process().memory_info().rss
    built = build_side(
        project.config.index,
        key,
        embeddings,
        "image",
        path,
        draw_queries(embeddings, 2 * 200),
        device="cpu",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        **built,
        "rows": rows,
        "bytes": path.stat().st_size,
        "build_peak_mib": (peak - before) / MIB,
    }
    path.with_suffix(".json").write_text(json.dumps(row))
    return row


def search(folder: Path, rows: int, key: str) -> Row:
    """Time one index in our way, in the reference's, and against exact search; and what
    each finds.
    """
    project, path = project_in(folder), file_of(folder, key)
    built = json.loads(path.with_suffix(".json").read_text())
    embeddings = project.store.current("corpus_embeddings", ALL)
    stored, prompts = (
        StoredVectors(embeddings, "image"),
        Cloud(rows, WIDTH).prompts(TIMED_CLASSES, TEMPLATES),
    )
    if key == "Flat":
        prompts = prompts[:EXACT_PROMPTS]
    before = psutil.Process().memory_info().rss
    index = read_index(path, mapped=True)
    if built["parameters"]:
        set_parameters(index, built["parameters"])
    ours = rate(lambda part: find_rows(index, part, HITS, built["rerank"], stored), [prompts])
    memory = psutil.Process().memory_info()
    row = {
        **built,
        "ours": ours,
        "resident_mib": (memory.rss - before) / MIB,
        "mapped_mib": memory.shared / MIB,
    }
    exact = index if key == "Flat" else read_index(file_of(folder, "Flat"), mapped=True)
    row["exact"] = rate(lambda part: find_rows(exact, part, HITS), [prompts[:EXACT_PROMPTS]])
    if default := default_parameters(index):
        set_parameters(index, default)
    row["reference"] = rate(lambda part: find_rows(index, part, HITS), by_class(prompts, TEMPLATES))
    neighbours = Neighbours(stored, draw_queries(embeddings, 2 * 200))
    row["reference_recall"] = neighbours.recall(index, HITS, 1, slice(None, None, 2))
    return row


def default_parameters(index: Any) -> str:
    """FAISS' own: one cell, or 16 nodes of a graph."""
    graph = search_parameters(index, 1).startswith("efSearch")
    return search_parameters(index, 16 if graph else 1)


def by_class(prompts: Any, templates: int) -> list[Any]:
    """The prompts of each class by themselves."""
    return [prompts[start : start + templates] for start in range(0, len(prompts), templates)]


def rate(call: Callable[[Any], Any], parts: Sequence[Any], repeats: int = 3) -> float:
    """Queries per second of calls with all parts, one after the other; the best of some runs."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        for part in parts:
            call(part)
        best = min(best, time.perf_counter() - started)
    return sum(map(len, parts)) / best


def ask_all(folder: Path, rows: int, classes: int, key: str) -> Row:
    """All prompts of many classes, in every way."""
    embeddings = project_in(folder).store.current("corpus_embeddings", ALL)
    return ask(embeddings, folder, rows, classes, key)


def file_of(folder: Path, key: str) -> Path:
    """The path of the index of a key."""
    return folder / f"{key.replace(',', '-')}.index"


def in_process(stage: str, folder: Path, rows: int, extra: str = "") -> Row:
    """Run one stage in a fresh process; its last line is the result."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.retrieval",
        "--stage",
        stage,
        "--folder",
        str(folder),
    ]
    command += ["--sizes", str(rows), "--extra", extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)  # noqa: S603
    result: Row = json.loads(done.stdout.splitlines()[-1])
    return result


def run(given: argparse.Namespace) -> str:
    """All stages; returns the page's text."""
    rows_of_table, asked = [], None
    for rows in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder, cells = Path(name), given.prompts_key or f"IVF{cells_for(rows)},SQfp16"
            keys = [cells] if given.prompts_only else given.keys or default_keys(rows)
            keys = keys if given.prompts_only else list(dict.fromkeys(["Flat", *keys]))
            steps = tqdm(total=2 * len(keys) + 1, desc=f"{rows:,}", disable=None)
            in_process("make", folder, rows)
            steps.update()
            for key in keys:
                in_process("build", folder, rows, key)
                steps.update()
                if not given.prompts_only:
                    rows_of_table.append(in_process("search", folder, rows, key))
                    print(json.dumps(rows_of_table[-1]), flush=True)
                steps.update()
            if rows == given.prompts_at or given.prompts_only:
                asked = in_process("ask", folder, rows, f"{given.classes} {cells}")
            steps.close()
    setting = (
        f"{faiss.omp_get_max_threads()} threads, FAISS {faiss.__version__}, {HITS} hits a query"
    )
    text = [f"{setting}.", index_table(rows_of_table)] if rows_of_table else []
    return "\n\n".join(text + ([table(asked)] if asked else []))


def main() -> None:
    """Run everything, or one stage (in a process that `run` starts)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000])
    parser.add_argument(
        "--keys", nargs="+", help="instead of those for each size; exact search is always there"
    )
    parser.add_argument(
        "--prompts-at", type=int, default=1_000_000, help="the size at which all prompts are asked"
    )
    parser.add_argument(
        "--classes", type=int, default=PROMPT_CLASSES, help=f"of {TEMPLATES} prompts each"
    )
    parser.add_argument(
        "--prompts-key", help="key of cells, among `--keys`, of the index that is asked"
    )
    parser.add_argument(
        "--prompts-only", action="store_true", help="ask all prompts, and nothing else"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to put vectors and indices; a temporary folder by default",
    )
    parser.add_argument("--page", type=Path, help="has the two markers; gets the tables")
    parser.add_argument("--section", default="retrieval", help="name in the markers of the page")
    parser.add_argument(
        "--quick", action="store_true", help="20,000 vectors and 50 classes, to see that it works"
    )
    parser.add_argument(
        "--stage", choices=["make", "build", "search", "ask"], help=argparse.SUPPRESS
    )
    parser.add_argument("--extra", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        stages: dict[str, Callable[[], Row]] = {
            "make": lambda: make(given.folder, given.sizes[0]),
            "build": lambda: build(given.folder, given.sizes[0], given.extra),
            "search": lambda: search(given.folder, given.sizes[0], given.extra),
            "ask": lambda: ask_all(
                given.folder, given.sizes[0], int(given.extra.split()[0]), given.extra.split()[1]
            ),
        }
        print(json.dumps(stages[given.stage]()))
        return
    if given.quick:
        given.sizes, given.prompts_at, given.classes = [20_000], 20_000, 50
    text = run(given)
    print(text)
    if given.page:
        write_section(
            given.page, text, f"<!-- {given.section}:begin -->", f"<!-- {given.section}:end -->"
        )


if __name__ == "__main__":
    main()
