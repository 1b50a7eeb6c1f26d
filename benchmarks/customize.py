"""One optimizer step of `gated-image`: ours against the published design of REACT, measured and
reported.

Run `.venv/bin/python -m benchmarks.customize` from the repository's root: `--quick` only to see
that it works, `--page benchmarks/results.md` to write the tables into that page. Both train the
same model, shaped like ViT-B/32 with random weights and six gated blocks, on the same batch with
the same threads. The steps of all variants are taken in turns, so that what else the machine does
hits all of them alike. Batches are ready in memory: reading, decoding and augmenting images is not
measured, and kept vectors and tokens are made before the clock starts.

The steps themselves are in `benchmarks.published`.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from benchmarks import published as steps
from benchmarks.pages import make_parser, write_section
from react_pipeline.clip import ImageTower, map_weights, text_parameters

MEMORY_STEPS = 3
DEVICE = "cpu"  # cards: benchmarks.gpu
ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- customize:begin -->", "<!-- customize:end -->"
FP32 = frozenset({steps.TEXTS, steps.NO_CHECKPOINTING, steps.CLASS_TOKEN})

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A way to take a step: its parts (none: the published design), and the ratio of speeds that is
    wanted of it.
    """

    parts: frozenset[str] = frozenset()
    wanted: float | None = None
    compiled: bool = False


VARIANTS = {
    "published fp32": Variant(),
    "ours fp32": Variant(FP32, 1.5),
    "ours fp32 compiled": Variant(FP32, 1.5, compiled=True),
    "ours bf16": Variant(FP32 | {steps.BF16}, 2.6),
    "ours bf16, tokens kept": Variant(frozenset(steps.PARTS), 3.5),
}
PUBLISHED, OURS_FP32, OURS_BF16 = "published fp32", "ours fp32", "ours bf16"

SPEED = ("seconds (best)", "ratio of best", "ratio of median", "wanted", "images/s (best)")
MEMORY = ("peak MiB", "memory ratio")
"""The columns of the page's tables of variants."""


def step_of(name: str, model: Any, batches: steps.Batches) -> steps.Take:
    """The step of a variant."""
    parts = VARIANTS[name].parts
    if not parts:
        return steps.published_step(model, batches)
    return steps.our_step(
        model, batches, parts, ImageTower(model, is_compiled=VARIANTS[name].compiled), DEVICE
    )


def peak_memory_bytes(given: argparse.Namespace, name: str) -> int:
    """Peak memory of a fresh process that takes a few steps of one variant."""
    options = f"--batch {given.batch} --threads {given.threads} --memory-of".split()
    command = [sys.executable, "-m", "benchmarks.customize", *options, name]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - ourselves
    return int(ran.stdout)


def take_few_steps(given: argparse.Namespace) -> int:
    """What the fresh process does: its peak memory in bytes."""
    model = steps.random_model(DEVICE)
    batches = steps.Batches.random(model, 1, given.batch, DEVICE)
    take = step_of(given.memory_of, model, batches)
    with tempfile.TemporaryDirectory() as directory:
        if steps.TEXTS in VARIANTS[given.memory_of].parts:
            # As the trainer does once it has the vectors: the frozen text tower is mapped from the
            # base's file.
            path, names = Path(directory) / "base.safetensors", text_parameters(model)
            parameters = dict(model.named_parameters())
            save_file({name: parameters[name].detach() for name in names}, path)
            map_weights(model, names, path)
        for step in range(MEMORY_STEPS):
            take(step)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def curves(model: Any, given: argparse.Namespace) -> dict[str, list[float]]:
    """Losses of short trainings that all see the same pairs from the same weights, but for what
    their name says.

    What a difference to the published fp32 run is to be measured by: for fp32 the published step
    with the pairs of each batch in another order, which changes rounding alone; for bf16 the
    published step with another seed of the new blocks, since two users who repeat a training differ
    by that.
    """
    batches = steps.Batches.random(model, given.curve_steps, given.batch, DEVICE)
    start = {name: parameter.detach().clone() for name, parameter in steps.trained(model).items()}
    other = {
        key: weight.detach() for key, weight in steps.trained(steps.random_model(DEVICE, 1)).items()
    }
    runs = {
        PUBLISHED: (PUBLISHED, batches, start),
        OURS_FP32: (OURS_FP32, batches, start),
        OURS_BF16: (OURS_BF16, batches, start),
        "published, pairs in another order": (PUBLISHED, batches.reordered(), start),
        "published, another seed of the blocks": (PUBLISHED, batches, other),
    }
    losses = {}
    for name, (variant, pairs, weights) in runs.items():
        with torch.no_grad():
            for key, parameter in steps.trained(model).items():
                parameter.copy_(weights[key])
        take = step_of(variant, model, pairs)
        losses[name] = [take(step) for step in range(given.curve_steps)]
    return losses


# The report.


def speed_rows(seconds: Mapping[str, list[float]], batch: int) -> dict[str, dict[str, float]]:
    """Seconds of the best step, ratios to the published step of best and of median, and images a
    second.
    """
    reference = seconds[PUBLISHED]
    return {
        name: {
            "seconds (best)": min(taken),
            "ratio of best": min(reference) / min(taken),
            "ratio of median": statistics.median(reference) / statistics.median(taken),
            "images/s (best)": batch / min(taken),
        }
        for name, taken in seconds.items()
    }


def variants(model: Any, memory: Mapping[str, int], given: argparse.Namespace) -> Rows:
    """Measure each variant in turns."""
    batches = steps.Batches.random(model, 1, given.batch, DEVICE)
    takes = {name: step_of(name, model, batches) for name in memory}
    rows: Rows = speed_rows(timed(takes, given.repeats), given.batch)
    for name, row in rows.items():
        row |= {"wanted": VARIANTS[name].wanted}
        row |= {"peak MiB": memory[name] / 2**20, "memory ratio": memory[name] / memory[PUBLISHED]}
    return rows


def timed(takes: Mapping[str, steps.Take], repeats: int) -> dict[str, list[float]]:
    """Seconds of single steps, all in turns, after one step each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for step in range(repeats + 1):
        for name, take in takes.items():
            began = time.perf_counter()
            take(step)
            if step:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=None, help="pairs (default: 32, quick: 8)")
    parser.add_argument(
        "--repeats", type=int, default=None, help="steps of each variant that count (default: 7)"
    )
    parser.add_argument(
        "--curve-steps", type=int, default=None, help="steps of the loss curves (default: 12)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile too; needs a C++ compiler and a minute",
    )
    parser.add_argument("--quick", action="store_true", help="batch 8, one repeat, short curves")
    parser.add_argument("--memory-of", choices=VARIANTS, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name, usual, quick in (("batch", 32, 8), ("repeats", 7, 1), ("curve_steps", 12, 3)):
        if getattr(given, name) is None:
            setattr(given, name, quick if given.quick else usual)
    return given


def figure(value: Any) -> str:
    """A number with three digits or all before its point, a dash where there is none; text stays as
    it is.
    """
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if abs(value) < 0.001:
        return f"{value:.1e}" if value else "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def show(title: str, rows: Rows) -> None:
    """Print a table."""
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(f"\n{title}\n{table.to_string(float_format=figure, na_rep='-')}", flush=True)


def to_markdown(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Rows as a Markdown table, with those of `columns` that they have, or all."""
    table = pd.DataFrame.from_dict(rows, orient="index")
    if columns is not None:
        table = table[[column for column in columns if column in table]]
    alignment = ("left", *("right" for _ in table))
    return table.map(figure).to_markdown(disable_numparse=True, colalign=alignment)


def section(setting: str, rows: Rows) -> str:
    """What the page shows of a run: speed and memory of the variants. Curves are printed."""
    note = (
        "Ratios are over the published step; memory is the peak of a fresh process; `wanted` is "
        "the goal"
    )
    return f"{setting}.\n\n{note}:\n\n{to_markdown(rows, SPEED + MEMORY)}"


def main() -> None:
    """Measure memory, speed and the curves, in this order, and print them."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(take_few_steps(given))
        return
    setting = f"batch {given.batch}, {given.threads} threads, {DEVICE}, torch {torch.__version__}"
    title = (
        f"{steps.ARCHITECTURE} with {steps.GATED} gated blocks, {setting}; best and median of "
        f"{given.repeats} steps"
    )
    print(title, flush=True)
    names = [name for name, variant in VARIANTS.items() if given.compile or not variant.compiled]
    # Before this process grows: Linux counts the memory of the process that starts another one to
    # the other's peak.
    memory = {name: peak_memory_bytes(given, name) for name in names}
    model = steps.random_model(DEVICE)
    rows = variants(model, memory, given)
    show("Variants; wanted of memory is a ratio of at most 1", rows)
    losses = curves(model, given)
    reference = losses.pop(PUBLISHED)
    print(f"\nLosses of {PUBLISHED}: {reference[0]:.4f} falling to {reference[-1]:.4f}")
    for name, curve in losses.items():
        largest = max(abs(one - other) for one, other in zip(reference, curve, strict=True))
        print(f"  {name:45} differs by {largest:.1e} at most")
    if given.page is not None:
        write_section(given.page, section(title, rows), BEGIN, END)


if __name__ == "__main__":
    main()
