"""What dense features cost: a ViT-B/16 at 448 px against its plain forward pass on the same tokens.

Run `python -m benchmarks.dense`. Weights are random: they change no time. Each round times the
plain pass and every attention one after the other, and a ratio is taken within a round, so that
other work on the machine changes both sides; the medians over rounds are printed. CPU time is that
of all threads: it does not count waiting for a core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP

from react_pipeline.extensions.dense.settings import ATTENTIONS
from react_pipeline.extensions.dense.tower import DenseTower
from react_pipeline.pages import markdown_table

AT_MOST = 1.15
"""Of the plain pass."""


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of one call."""
    started = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main() -> None:
    """Print a row for each attention."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--side", type=int, default=448, help="pixels")
    parser.add_argument("--images", type=int, default=1, help="in a batch")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    config = open_clip.get_model_config(given.model)
    config["vision_cfg"]["image_size"] = given.side  # the plain tower has as many tokens
    model = CLIP(**config).eval().requires_grad_(False)
    images = torch.randn(given.images, 3, given.side, given.side)
    sides: dict[str, Callable[[], object]] = {"plain": lambda: model.encode_image(images)}
    for attention in ATTENTIONS:
        tower = DenseTower(model, attention)
        sides[attention] = lambda tower=tower: tower(images)  # type: ignore[misc]
    names, rounds = list(sides), []
    with torch.inference_mode():
        for number in range(given.rounds + 1):
            order = names[
                :: -1 if number % 2 else 1
            ]  # what comes first in a round is not always the same
            measured = {name: seconds(sides[name]) for name in order}
            rounds.append([measured[name] for name in names])
    times = np.array(rounds[1:])  # round, side, wall or CPU; the first round warms up
    ratios = np.median(times / times[:, :1], axis=0)
    rows = [
        [name, f"{wall:.3f}", f"{of_wall:.2f}", f"{of_cpu:.2f}"]
        for name, wall, (of_wall, of_cpu) in zip(
            names, np.median(times[..., 0], axis=0), ratios, strict=True
        )
    ]
    print(
        markdown_table(
            [f"{given.model}, {given.side} px", "seconds", "of plain, wall", "of plain, CPU"], rows
        )
    )
    highest = ratios[:, 1].max()
    print(
        f"highest of plain, CPU: {highest:.2f}, "
        f"{'at most' if highest <= AT_MOST else 'MORE THAN'} {AT_MOST}"
    )


if __name__ == "__main__":
    main()
