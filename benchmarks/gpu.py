"""The GPU report: what the tests and the speed of this project are on a card, as a page.

`make gpu-report` measures the first card in under ten minutes, without internet, and writes
`benchmarks/reports/CARD.json` and `CARD.md`, to be sent as a pull request. On a machine without a
card, `REPORT='--pretend'` and `REPORT='--device cpu'` show with tiny sizes that it works.

Every case runs in a process of its own with a limit of time, so that an abort in CUDA or FAISS
costs one row. Cases are functions of the arguments that give rows by name; `CASES` has them in
order.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import embed_inputs
from benchmarks import published as steps
from benchmarks.pages import ROOT, Rows, to_markdown
from react_pipeline.clip import Pixels, encode_text
from react_pipeline.pages import markdown_table
from react_pipeline.training.data import on_device

TESTS = Path("tests")
REPORTS = ROOT / "benchmarks" / "reports"
TOTAL_SECONDS = 570
PEAKS = {"RTX 4090": 165e12, "RTX 5090": 209e12, "L40S": 362e12, "L4": 121e12, "A100": 312e12}
PEAKS |= {"H100": 989e12, "H200": 989e12, "B200": 2250e12}
"""Operations a second in bf16 (dense), by a part of a card's name."""

LENGTH = 77
"""Token ids of a text: the longest that there is."""

Take = Callable[[], Any]
Case = Callable[[argparse.Namespace], Rows]


# The work that is timed.


def training_step(device: str, batch: int, *, compiled: bool = False) -> Take:
    """A step of `gated-image` in bf16 from uint8 pixels of the host; texts are encoded too."""
    model = steps.random_model(device)
    ids = torch.randint(1, 49_000, (batch, LENGTH)).to(device)

    @torch.no_grad()
    def encode(texts: Tensor) -> Tensor:
        return functional.normalize(encode_text(model, ids[texts]).float(), dim=-1)

    texts = steps.Texts(encode)
    step = steps.training_step(model, texts, batch, device, bf16=True, compiled=compiled)
    pixels = Pixels(image_transform_v2(PreprocessCfg(size=224), is_train=False))
    images = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
    feed = on_device(itertools.repeat(images.pin_memory() if device != "cpu" else images), device)
    number = torch.arange(batch)

    def take() -> Any:
        return step.take(5, pixels.normalised(next(feed)), number)

    return take


def milliseconds(take: Take, repeats: int, device: str) -> float:
    """The median of single steps, by CUDA events on a card."""
    taken = []
    for _ in range(3 + repeats):
        if device == "cpu":
            began = time.perf_counter()
            take()
            taken.append(1e3 * (time.perf_counter() - began))
            continue
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        take()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end))
    return statistics.median(taken[3:])


def peak_bytes(device: str) -> int:
    """Of the card's allocator, or of this process."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return torch.cuda.max_memory_allocated()


def speed(given: argparse.Namespace, take: Take, batch: int) -> dict[str, Any]:
    """A row: speed, utilisation and memory of a step."""
    took = milliseconds(take, given.repeats, given.device)
    eager = training_step("cpu", 2)
    with FlopCounterMode(display=False) as operations, sdpa_kernel(SDPBackend.MATH):
        eager()
    flop = batch * operations.get_total_flops() / 2
    peak = next((peak for name, peak in PEAKS.items() if name in card(given)), None)
    return {
        "ms": took,
        "pairs/s": 1e3 * batch / took,
        "GFLOP a pair": flop / batch / 1e9,
        "MFU": 1e3 * flop / took / peak if peak else None,
        "peak GiB": peak_bytes(given.device) / 2**30,
    }


def step_case(given: argparse.Namespace, size: int, compiled: bool) -> Rows:
    """Steps of one batch size."""
    batch = given.batches[size]
    take = training_step(given.device, batch, compiled=compiled)
    return {f"batch {batch}, {'compiled' if compiled else 'eager'}": speed(given, take, batch)}


# Embedding from tars: ours and the loops of others.


def corpus(given: argparse.Namespace) -> tuple[str, Path]:
    """The pattern of the tars and the checkpoint, which the first case makes."""
    checkpoint = given.scratch / "weights.pt"
    if not checkpoint.exists():
        embed_inputs.write_shards(given.scratch / "shards", 4, given.pairs // 4, images=64)
        embed_inputs.write_checkpoint(checkpoint)
    return f"{given.scratch}/shards/{{00000..00003}}.tar", checkpoint


def embedded(given: argparse.Namespace, seconds: float, images: Any) -> dict[str, Any]:
    """A row; unit vectors (N, D) in the order of keys are compared with ours."""
    ours = given.scratch / "ours.npy"
    if not ours.exists():
        np.save(ours, images)
    cosine = (np.load(ours) * images).sum(axis=1).min()
    return {"pairs/s": given.pairs / seconds, "smallest cosine to ours": f"{cosine:.5f}"}


def ours_case(given: argparse.Namespace) -> Rows:
    """`embed_corpus`, without its start."""
    from benchmarks.embed_runs import Ours

    _, checkpoint = corpus(given)
    embedding = {"batch_size": given.batches[0], "precision": "bf16", "workers": given.workers}
    project = embed_inputs.write_project(given.scratch, checkpoint, embedding, given.device)
    run = Ours(project)
    seconds = run()
    return {"embed_corpus, bf16": embedded(given, seconds, run.vectors()["image"])}


def clip_retrieval_case(given: argparse.Namespace) -> Rows:
    """`clip-retrieval inference`, without its start; it takes fp32, on a card fp16."""
    from benchmarks.embed_runs import Theirs

    pattern, checkpoint = corpus(given)
    settings = argparse.Namespace(**{**vars(given), "batch": given.batches[0]})
    run = Theirs(pattern, checkpoint, given.scratch / "theirs", settings)
    seconds = run()
    return {"clip-retrieval": embedded(given, seconds, run.vectors()["image"])}


# Results beside the processor's.


def search_case(given: argparse.Namespace) -> Rows:
    """Exact hits of many prompts."""
    from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
    from react_pipeline.embedding import StoredVectors
    from react_pipeline.indexing import exact_hits
    from react_pipeline.project import Project

    rows, width, prompts = given.search
    folder = given.scratch / "search"
    project = Project.load(embed_inputs.write_project(folder, folder / "none.pt", {}))
    publish_parents(project, 0)
    cloud = Cloud(rows, width)
    stored = StoredVectors(publish_embeddings(project, cloud.pairs(), width), "image")
    queries = cloud.prompts(prompts // 8, 8)
    seconds, hits = {}, {}
    for device in dict.fromkeys([given.device, "cpu"]):
        began = time.perf_counter()
        hits[device] = exact_hits(stored, queries, 10, device=device)[1]
        seconds[device] = time.perf_counter() - began
    same = float((hits[given.device] == hits["cpu"]).mean())
    about = {"seconds": seconds[given.device], "seconds of the processor": seconds["cpu"]}
    return {f"{prompts} prompts, {rows:,} vectors": {**about, "equal hits": f"{same:.4%}"}}


# Tests.


class Outcomes:
    """Counts what pytest reports."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.row: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "first failure": ""}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once; an error of its fixtures is a failure."""
        if report.when == "call" or report.outcome != "passed":
            self.row[report.outcome] += 1
        if report.failed and not self.row["first failure"]:
            last = str(report.longrepr).strip().splitlines()[-1]
            self.row["first failure"] = f"{report.nodeid.partition('::')[2]}: {last}"[:300]


def tests_case(given: argparse.Namespace, chosen: str) -> Rows:
    """The tests of a card; without one, those of `tests/gpu` on the processor."""
    import pytest

    on_card = given.device == "cuda" and not given.pretend
    paths = [TESTS] if on_card else [TESTS / "gpu" / "test_devices.py"]
    mark = "gpu" if given.device == "cuda" else "not gpu"
    outcomes = Outcomes()
    # A process that a test starts sees no pretended GPU.
    names = f"{chosen} and not killed" if given.pretend else chosen
    options = ["-q", "-p", "no:cacheprovider", "-m", mark, "-k", names]
    code = pytest.main([*options, *map(str, paths)], plugins=[outcomes])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return {chosen: outcomes.row}


CASES: dict[str, dict[str, tuple[Case, int]]] = {
    "Tests": {
        "not index": (partial(tests_case, chosen="not index"), 240),
        "cells": (partial(tests_case, chosen="index and not OPQ8"), 60),
        "codes": (partial(tests_case, chosen="index and OPQ8"), 60),
    },
    "Training step": {
        "step, smaller batch": (partial(step_case, size=0, compiled=False), 90),
        "step, smaller batch, compiled": (partial(step_case, size=0, compiled=True), 150),
        "step, larger batch": (partial(step_case, size=1, compiled=False), 90),
        "step, larger batch, compiled": (partial(step_case, size=1, compiled=True), 150),
    },
    "Embedding from tars": {
        "embed_corpus": (ours_case, 120),
        "clip-retrieval": (clip_retrieval_case, 120),
    },
    "Hits": {"exact search": (search_case, 90)},
}


# The report.


def arguments_of(given: argparse.Namespace, case: str) -> list[str]:
    """The command line of one case."""
    pretend = ["--pretend"] if given.pretend else ["--device", given.device]
    quick = ["--quick"] if given.quick else []
    return [*pretend, *quick, "--scratch", str(given.scratch), "--case", case]


def run_process(command: Iterable[str], limit_seconds: float) -> Rows:
    """The rows that a Python process prints on its last line.

    Raises:
        RuntimeError: If it ends otherwise; with its last line.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / TESTS), os.getenv("PYTHONPATH"))))
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, *command],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
            timeout=limit_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"not done after {limit_seconds:.0f} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("ROWS ")]
    if done.returncode or not lines:
        named = re.findall(r"^\S*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
        last = (named or done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"exit status {done.returncode}: {last}"[:300])
    rows: Rows = json.loads(lines[-1].removeprefix("ROWS "))
    return rows


def run_sections(given: argparse.Namespace) -> Iterator[tuple[str, Rows]]:
    """The rows of each section; a case that fails is a row with its error."""
    deadline = time.monotonic() + TOTAL_SECONDS * given.patience
    for title, cases in CASES.items():
        rows: Rows = {}
        for name, (_, limit) in cases.items():
            left = deadline - time.monotonic()
            began = time.monotonic()
            try:
                if left < 1:
                    raise RuntimeError("not run: no time was left")
                command = ["-m", "benchmarks.gpu", *arguments_of(given, name)]
                rows |= run_process(command, min(limit * given.patience, left))
            except Exception as error:
                rows[name] = {"error": str(error)}
            print(f"{title}, {name}: {time.monotonic() - began:.0f} s", flush=True)
        yield title, rows


def card(given: argparse.Namespace) -> str:
    """The name of the device."""
    if given.device == "cuda":
        return torch.cuda.get_device_name()
    return f"a processor, {platform.machine()}"


def output_of(*command: str) -> str:
    """What a program prints; nothing where there is no such program."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)  # noqa: S603 - fixed words
        return ran.stdout.strip()
    return ""


def machine(given: argparse.Namespace) -> dict[str, Any]:
    """Where the report was made."""
    query = "--query-gpu=driver_version,memory.total"
    driver = output_of("nvidia-smi", query, "--format=csv,noheader").splitlines()
    changed = ", with changes" if output_of("git", "status", "--porcelain") else ""
    return {
        "card": card(given),
        "cards": torch.cuda.device_count() if given.device == "cuda" else 0,
        "driver, memory": driver[0] if driver else "–",
        "CUDA of torch": torch.version.cuda or "–",
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": output_of("git", "rev-parse", "--short", "HEAD") + changed,
        "date": date.today().isoformat(),
    }


def page(about: dict[str, Any], sections: dict[str, Rows]) -> str:
    """The report in Markdown."""
    machine_rows = markdown_table(["machine", ""], list(about.items()))
    parts = [f"# GPU report: {about['card']}", machine_rows]
    for title, rows in sections.items():
        parts += [f"## {title}", to_markdown(rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--pretend", action="store_true", help="on the pretended GPU of the tests")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output", type=Path, default=REPORTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not given.pretend and not torch.cuda.is_available():
        parser.error("no CUDA device is available; try --pretend or --device cpu")
    given.quick = given.quick or given.pretend or given.device == "cpu"
    given.batches = (2, 4) if given.quick else (256, 1024)
    given.repeats, given.pairs = (1, 16) if given.quick else (20, 8_192)
    given.workers = 1 if given.quick else max(1, len(os.sched_getaffinity(0)) - 1)
    given.patience = 10 if given.quick else 1
    given.search = (2_000, 64, 80) if given.quick else (500_000, 512, 2_000)
    return given


def main() -> None:
    """Run one case, or all of them and write the report."""
    given = arguments()
    with contextlib.ExitStack() as stack:
        if given.pretend:
            sys.path.append(str(ROOT / TESTS))
            from support.pretended_gpu import pretended_gpu

            stack.enter_context(pretended_gpu())
        if given.case:
            cases = dict(itertools.chain(*(section.items() for section in CASES.values())))
            rows = cases[given.case][0](given)
            print(f"ROWS {json.dumps(rows, default=float)}", flush=True)
            return
        about = machine(given)
        given.scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sections = dict(run_sections(given))
    given.output.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", about["card"]).strip("-").lower()
    (given.output / f"{name}.json").write_text(
        json.dumps({"machine": about, "sections": sections}, indent=1) + "\n"
    )
    (given.output / f"{name}.md").write_text(page(about, sections))
    print(page(about, sections))


if __name__ == "__main__":
    main()
