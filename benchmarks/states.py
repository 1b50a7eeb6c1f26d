"""How long a training stands still for a state: written before the next step, and behind the steps.

Run `.venv/bin/python -m benchmarks.states` from the repository's root. The state is that of a model
with so many million trained parameters. Between two states the processor is idle, as where a GPU
takes the steps. Seconds are of the processor for the training's own thread, so that what else the
machine does changes them little; the wait for a disk comes on top, before the next step alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from react_pipeline.store import Scratch
from react_pipeline.training import resume

PARTS = 24


def state_of(parameters: int) -> resume.TrainingState:
    """A state after one step of AdamW."""
    trained = {
        f"weight{part}": nn.Parameter(torch.randn(parameters // PARTS)) for part in range(PARTS)
    }
    optimizer = torch.optim.AdamW(trained.values(), 1e-4, fused=True)
    for weight in trained.values():
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        weight.grad = None
    return resume.TrainingState(trained, optimizer, torch.amp.GradScaler("cpu", enabled=False))


def still(state: resume.TrainingState, folder: Path, saves: int, between: float) -> float:
    """Median seconds of the calls that save."""
    seconds = []
    with resume.StateWriter(Scratch(folder)) as states:
        for step in range(1, saves + 1):
            began = time.thread_time()
            states.save(state, step, 0.0, "")
            seconds.append(time.thread_time() - began)
            time.sleep(between)
    return statistics.median(seconds)


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--between", type=float, default=20, help="seconds of steps after each")
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    torch.set_num_threads(1)  # others would not be counted
    print("| state, GB | before the next step, s | behind the steps, s | ratio |")
    print("|---|---|---|---|")
    for millions in given.millions:
        state = state_of(millions * 1_000_000)
        seconds = []
        for limit in (math.inf, 0):
            resume.LARGE_BYTES = limit  # type: ignore[assignment]
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                seconds.append(still(state, Path(folder), given.saves, given.between))
        before, behind = seconds
        size = state.size_bytes / 1e9
        print(f"| {size:.1f} | {before:.2f} | {behind:.2f} | {before / behind:.1f} |", flush=True)


if __name__ == "__main__":
    main()
