"""What dense features cost: a ViT-B/16 at 448 px against its plain forward pass on the same tokens.

Run `python -m benchmarks.dense`. Weights are random: they change no time. Both sides take turns in one run, and the
ratio of their medians is printed for every attention.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from open_clip.model import CLIP

from react_pipeline.clip import DenseTower
from react_pipeline.settings import ATTENTIONS


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print a row for each attention."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--side", type=int, default=448, help="pixels")
    parser.add_argument("--images", type=int, default=1, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    config = open_clip.get_model_config(given.model)
    config["vision_cfg"]["image_size"] = given.side  # the plain tower has as many tokens
    model = CLIP(**config).eval().requires_grad_(False)
    images = torch.randn(given.images, 3, given.side, given.side)
    sides: dict[str, Callable[[], object]] = {"plain": lambda: model.encode_image(images)}
    for attention in ATTENTIONS:
        tower = DenseTower(model, attention)
        sides[attention] = lambda tower=tower: tower(images)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for _ in range(given.rounds + 1):
            for name, run in sides.items():
                times[name].append(seconds(run))
    medians = {name: statistics.median(measured[1:]) for name, measured in times.items()}
    print(f"| {given.model}, {given.side} px | seconds | of plain |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| `{name}` | {median:.3f} | {median / medians['plain']:.2f} |")


if __name__ == "__main__":
    main()
