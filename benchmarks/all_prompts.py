"""All prompts of a domain against one side of a corpus: in list order and exactly, beside FAISS' own ways.

A stage of `benchmarks.retrieval`, which has built `Flat` and the other key. Ways that FAISS has are timed with some of
the prompts, in the process that times ours, and scaled. Ratios are of seconds of a core, since a machine may be shared.
The floor is what the products alone would take at the rate of a matrix product of the same type, measured in the same
process; a share above 1 skips products, and "no bound" skips none. Hits are compared where both ways were run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import torch

from benchmarks.clustered import Cloud
from benchmarks.retrieval_tables import MIB, Row
from react_pipeline.clip import DTYPES
from react_pipeline.indexing import StoredVectors, batch, find_rows, is_worth, read_index, set_parameters
from react_pipeline.store import Artifact

WIDTH, TEMPLATES, HITS = 512, 80, 10
SOME_PROMPTS = 1_600


def ask(embeddings: Artifact, folder: Path, rows: int, classes: int, key: str) -> Row:
    """Time every way; seconds are those of all prompts."""
    stored, prompts = StoredVectors(embeddings, "image"), Cloud(rows, WIDTH).prompts(classes, TEMPLATES)
    built = json.loads((folder / f"{key.replace(',', '-')}.json").read_text())
    index, flat = (
        read_index(folder / f"{name.replace(',', '-')}.index", "faiss_index", mapped=True) for name in (key, "Flat")
    )
    set_parameters(index, built["parameters"])
    some = prompts[: min(SOME_PROMPTS, len(prompts))]
    fast = batch.product_precision(len(prompts), "cpu")
    ways: dict[str, Row] = {}

    def measure(name: str, call: Callable[[Any], Any], asked: Any, precision: str = "fp32") -> Any:
        with patch.object(batch, "product_precision", lambda *_: precision), peak_memory() as peak:
            started, cpu = time.perf_counter(), time.process_time()
            found = call(asked)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        scale = len(prompts) / len(asked)
        ways[name] = {"seconds": seconds * scale, "cpu": cpu * scale, "prompts": len(asked), "mib": peak[0] / MIB}
        return found

    def exact(asked: Any, hits: int = HITS) -> Any:
        return batch.exact_hits(stored, asked, hits, templates=TEMPLATES)

    def in_lists(asked: Any) -> Any:
        return batch.list_order_hits(index, asked, HITS, built["rerank"], stored)

    find_rows(index, some[:80], HITS, built["rerank"], stored)
    one_by_one = measure("one by one", lambda asked: find_rows(index, asked, HITS, built["rerank"], stored), some)
    lists = measure("list order", in_lists, prompts, fast)
    flat_hits = measure("IndexFlat", lambda asked: find_rows(flat, asked, HITS), some)
    whole = measure("exact", exact, prompts, fast)
    if fast != "fp32":
        measure("list order, fp32", in_lists, prompts)
        # With the bound, products are in single precision anyway.
        if not is_worth(len(prompts), TEMPLATES, rows, HITS, fast, "cpu"):
            measure("exact, fp32", exact, prompts)
    measure("exact, no bound", lambda asked: batch.exact_hits(stored, asked, HITS), prompts[: 5 * len(some)], fast)
    measure("exact, half of the prompts", exact, prompts[: len(prompts) // 2], fast)
    measure("exact, 5 times the hits", lambda asked: exact(asked, 5 * HITS), prompts, fast)
    operations = 2 * len(prompts) * rows * WIDTH
    floors = {name: operations / rate(name) for name in dict.fromkeys([fast, "fp32"])}
    return {
        "rows": rows,
        "prompts": len(prompts),
        "key": key,
        "parameters": built["parameters"],
        "recall": built["recall_at_10"],
        "type": fast,
        "threads": torch.get_num_threads(),
        "ways": ways,
        "floors": floors,
        "same_as_index": same(lists, one_by_one),
        "same_as_flat": same(whole, flat_hits),
        "vectors_mib": 2 * rows * WIDTH / MIB,
    }


def same(found: Any, wanted: Any) -> float:
    """Share of hits that are as similar as those wanted, to the sixth digit: equal rows, or rows that are tied."""
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
    """The most bytes of its own, mapped files not counted, that this process took within; known on leaving."""
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
        floor = floors["fp32" if "fp32" in name or name == "IndexFlat" else row["type"]]
        floor /= 2 if "half" in name else 1
        seconds, cpu = (way[clock] / (2 if "half" in name else 1) for clock in ("seconds", "cpu"))
        lines.append(
            {
                "way": name,
                "seconds": f"{seconds:,.1f}",
                "of a core": f"{cpu:,.1f}",
                "prompts/s": f"{row['prompts'] / way['seconds']:,.0f}",
                "times faster than FAISS": f"{beside['cpu'] / way['cpu']:.2f}",
                "recall@10": "1.000" if exact else f"{row['recall']:.3f}",
                "share of the floor": f"{floor / cpu:.2f}" if exact else "–",
                "memory, MiB": f"{way['mib']:,.0f}",
                "timed with": f"{way['prompts']:,}",
            }
        )
    text = (
        f"{row['prompts']:,} prompts, {HITS} hits each, against {row['rows']:,} vectors ({row['vectors_mib']:,.0f} MiB "
        f"mapped), `{row['key']}` at {row['parameters']}, {row['threads']} threads, fastest type {row['type']}. "
        f"Hits of list order as similar as the index's: {row['same_as_index']:.4%}; of exact search as `IndexFlat`'s: "
        f"{row['same_as_flat']:.4%}."
    )
    return f"{text}\n\n{pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)}"
