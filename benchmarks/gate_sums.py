"""What rounding to bf16 takes from the sums of gated blocks, and whether a training notices.

Run after `make demo`: `.venv/bin/python benchmarks/gate_sums.py`. One domain of the demo is trained
in bf16 as it is, in bf16 with the two sums of each gated block in fp32 and rounded once, in bf16
with an fp32 residual stream from the first gated block on, and in fp32. Of the first, it prints
what of the gates' contribution rounding loses.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.demo_proof import beside
from react_pipeline.clip import GatedBlock
from react_pipeline.clip.attention import feed_forward, self_attention
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.project import Project
from react_pipeline.training import customize
from react_pipeline.training.log import METRICS_FILE

AS_IS = GatedBlock.forward
RATIOS: dict[str, list[tuple[float, float, float]]] = defaultdict(list)


def _rounded(name: str, x: Tensor, gate: Tensor, branch: Tensor) -> None:
    """Record |contribution| / |stream|, the share of elements that keep their value, and the
    relative error.
    """
    if not float(gate) or x.dtype != torch.bfloat16:
        return
    exact = gate.float().tanh() * branch.float()
    got = (x + gate.tanh() * branch).float() - x.float()
    RATIOS[name].append(
        (
            float(exact.norm() / x.float().norm()),
            float((got[exact != 0] == 0).float().mean()),
            float((got - exact).norm() / exact.norm()),
        )
    )


def _branches(block: GatedBlock, x: Tensor) -> Tensor:
    """The block in the dtype of `x`, measured."""
    attended = self_attention(block.ln_1(x), block.attn)
    _rounded("attn", x.detach(), block.alpha_attn.detach(), attended.detach())
    x = x + block.alpha_attn.tanh() * attended
    dense = feed_forward(block.ln_2(x), block.mlp)
    _rounded("dense", x.detach(), block.alpha_dense.detach(), dense.detach())
    return x + block.alpha_dense.tanh() * dense


def fp32_sums(block: GatedBlock, x: Tensor) -> Tensor:
    """Both sums in fp32, and what leaves the block in the dtype of the stream; no change at all
    while gates are 0.
    """
    return _branches(block, x.float()).to(x.dtype)


def fp32_stream(block: GatedBlock, x: Tensor) -> Tensor:
    """The stream stays in fp32 from here on, so the host's sums are in fp32 too."""
    return _branches(block, x.float())


VARIANTS = {
    "bf16": ("bf16", _branches),
    "bf16, gated sums in fp32": ("bf16", fp32_sums),
    "bf16, fp32 stream": ("bf16", fp32_stream),
    "fp32": ("fp32", AS_IS),
}


def main() -> None:
    """Train every variant with every seed; print accuracy, losses, and what rounding lost."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--domain", default="objects")
    arguments.add_argument("--config", type=Path, default=None)
    arguments.add_argument(
        "--curves", type=Path, default=None, help="write the losses of every step into this CSV"
    )
    given = arguments.parse_args()
    project, rows, curves = Project.load(given.config), [], {}
    for seed in range(given.seeds):
        for name, (precision, forward) in VARIANTS.items():
            RATIOS.clear()
            GatedBlock.forward = forward  # type: ignore[assignment, method-assign]
            place = f"gate_sums/{list(VARIANTS).index(name)}-{seed}"
            one = beside(project, place, seed, {"gated-image": {"precision": precision}})
            checkpoint = customize(one, given.domain, "gated-image")
            losses = pd.read_json(checkpoint.file(METRICS_FILE), lines=True)
            curves[name, seed] = losses["loss"]
            top1 = EvalResult.read(evaluate(one, given.domain, "gated-image")).top1
            row = {
                "variant": name,
                "seed": seed,
                "top1": top1,
                "loss": float(losses["loss"][-10:].mean()),
            }
            rows.append(
                {**row, **{f"loss_{step}": float(losses["loss"][step]) for step in (0, 10, 30)}}
            )
            print(json.dumps(rows[-1]), flush=True)
            for branch, found in RATIOS.items():
                for steps in (
                    1,
                    5,
                    20,
                    len(losses) - 1,
                ):  # two gated layers; while gates are 0 nothing is recorded
                    print(
                        f"  {branch} after {steps} steps: contribution, unchanged, error:",
                        found[2 * (steps - 1)],
                    )
    GatedBlock.forward = AS_IS  # type: ignore[method-assign]
    table = pd.DataFrame(rows)
    print(
        table.groupby("variant", sort=False)
        .mean(numeric_only=True)
        .drop(columns="seed")
        .round(4)
        .to_string()
    )
    if given.curves is not None:
        pd.DataFrame(curves).to_csv(given.curves)


if __name__ == "__main__":
    main()
