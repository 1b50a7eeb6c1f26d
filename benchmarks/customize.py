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

import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from benchmarks import published as steps
from benchmarks.pages import Rows, make_parser, parse_sizes, show_section, to_markdown

DEVICE = "cpu"  # cards: benchmarks.gpu
BEGIN, END = "<!-- customize:begin -->", "<!-- customize:end -->"

PUBLISHED, OURS_FP32, OURS_BF16 = "published fp32", "ours fp32", "ours bf16"
COMPILED = "ours fp32 compiled"
ours = partial(steps.our_step, device=DEVICE)
VARIANTS = {
    PUBLISHED: steps.published_step,
    OURS_FP32: ours,
    COMPILED: partial(ours, compiled=True),
    OURS_BF16: partial(ours, bf16=True),
    "ours bf16, tokens kept": partial(ours, bf16=True, tokens_kept=True),
}
"""Ways to take a step."""


def curves(model: Any, count: int, size: int) -> dict[str, list[float]]:
    """Losses of short trainings that all see the same pairs from the same weights, but for what
    their name says.

    What a difference to the published fp32 run is to be measured by: for fp32 the published step
    with the pairs of each batch in another order, which changes rounding alone; for bf16 the
    published step with another seed of the new blocks, since two users who repeat a training differ
    by that.
    """
    batches = steps.Batches.random(model, count, size, DEVICE)
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
        take = VARIANTS[variant](model, pairs)
        losses[name] = [take(step) for step in range(count)]
    return losses


def speed_rows(seconds: Mapping[str, list[float]], batch: int) -> Rows:
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


def main() -> None:
    """Measure speed, which the page gets, and the curves."""
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes a minute")
    given = parse_sizes(parser, batch=(32, 8), repeats=(7, 1), curve_steps=(12, 3))
    torch.set_num_threads(given.threads)
    model = steps.random_model(DEVICE)
    batches = steps.Batches.random(model, 1, given.batch, DEVICE)
    names = [name for name in VARIANTS if given.compile or name != COMPILED]
    takes = {name: VARIANTS[name](model, batches) for name in names}
    rows = speed_rows(timed(takes, given.repeats), given.batch)
    setting = (
        f"{steps.ARCHITECTURE} with {steps.GATED} gated blocks, batch {given.batch}, "
        f"{given.threads} threads, {DEVICE}, torch {torch.__version__}; best and median of "
        f"{given.repeats} steps. Ratios are over the published step:"
    )
    show_section(f"{setting}\n\n{to_markdown(rows)}", given.page, BEGIN, END)
    losses = curves(model, given.curve_steps, given.batch)
    reference = losses.pop(PUBLISHED)
    print(f"\nLosses of {PUBLISHED}: {reference[0]:.4f} falling to {reference[-1]:.4f}")
    for name, curve in losses.items():
        largest = max(abs(one - other) for one, other in zip(reference, curve, strict=True))
        print(f"  {name:45} differs by {largest:.1e} at most")


if __name__ == "__main__":
    main()
