"""How much of the time that gradients take between processes is hidden behind the backward pass.

Run `.venv/bin/python -m benchmarks.overlap` from the repository's root. Two gloo processes of one
thread take steps of `gated-image` on a small tower. Every reduction is slowed to the speed of a
link, at which all of them take half of a step: it sleeps for its bytes, in a thread of its own.
Measured in turns: a step without a link, one that reduces at its end, and one that reduces while it
goes backward.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from open_clip.model import CLIP
from torch import Tensor, nn

from react_pipeline.clip import ImageTower, add_gated_blocks
from react_pipeline.extensions.torchrun import world as world_module
from react_pipeline.extensions.torchrun.gradients import GradientSum
from react_pipeline.extensions.torchrun.world import Processes
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import GatedImage
from react_pipeline.training.image_encoder import ImageEncoder
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import parameter_groups
from react_pipeline.training.step import TrainingStep
from react_pipeline.training.texts import DrawnTexts
from react_pipeline.training.world import World

BATCH, LAYERS, WIDTH = 32, 8, 256
TRAINING = TrainingConfig(steps=1_000, warmup_steps=2, precision="fp32", last_k_layers=LAYERS)
WAYS = ("no link", "at the end", "while going backward")


class Link:
    """Reductions that take as long as their bytes over a link; a thread sends one after the
    other.
    """

    def __init__(self) -> None:
        """No link at first."""
        self.bytes_per_second = float("inf")
        self._reduce, self._thread = dist.all_reduce, ThreadPoolExecutor(1)

    def all_reduce(self, tensor: Tensor, *args: Any, async_op: bool = False, **options: Any) -> Any:
        """In place of `torch.distributed.all_reduce`."""
        if not async_op:
            return self._reduce(tensor, *args, **options)

        def send() -> None:
            time.sleep(tensor.nbytes / self.bytes_per_second)
            self._reduce(tensor, *args, **options)

        return _Work(self._thread.submit(send))


class _Work:
    def __init__(self, sent: Future[None]) -> None:
        self._sent = sent

    def wait(self) -> None:
        self._sent.result()


class AtTheEnd(GradientSum):
    """Sends nothing before the backward pass is done."""

    def _came(self, parameter: nn.Parameter) -> None:
        pass


class Texts:
    """Vectors of texts that were computed before."""

    def __init__(self, vectors: Tensor) -> None:
        """Keep them."""
        self._vectors = vectors

    def vectors(self, texts: Tensor) -> Tensor:
        """Unit vectors (B, D)."""
        return self._vectors[texts]


def step_of(world: World, gradients: type[GradientSum] = GradientSum) -> tuple[TrainingStep, int]:
    """A step of a new model, and the bytes of its gradients."""
    world_module.GradientSum = gradients
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": LAYERS, "width": WIDTH, "head_width": 32, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    model = CLIP(128, vision, text).eval()
    add_gated_blocks(model, LAYERS)
    model.requires_grad_(False)
    method = GatedImage()
    method.set_trainable(model)
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    optimizer = torch.optim.AdamW(parameter_groups(trained.items(), 0.1), lr=1e-3, fused=True)
    state = TrainingState(trained, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    texts: Any = Texts(functional.normalize(torch.randn(BATCH * world.size, 128), dim=-1))
    size = sum(parameter.nbytes for parameter in trained.values())
    encoder = ImageEncoder(model, ImageTower(model), TRAINING, world)
    return TrainingStep(encoder, texts, state, method.loss), size


def process(target: Path, repeats: int) -> None:
    """What each process does; the first leaves its seconds and losses."""
    torch.set_num_threads(1)
    world, link = Processes.join("cpu"), Link()
    dist.all_reduce = link.all_reduce
    overlapping, size = step_of(world)
    at_end, _ = step_of(world, AtTheEnd)
    steps = {WAYS[0]: at_end, WAYS[1]: at_end, WAYS[2]: overlapping}
    images = torch.randn(BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(world.rank))
    every = torch.arange(BATCH * world.size)
    drawn = DrawnTexts(every, every, torch.full_like(every, -1))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(2 + repeats):
        for name, step in steps.items():
            slowed = name != WAYS[0] and number > 1
            speed = size / (0.5 * seconds[WAYS[0]][1]) if slowed else float("inf")
            link.bytes_per_second = world.broadcast(speed)  # the processes begin together, too
            began = time.perf_counter()
            values = step.take(number, images, drawn, from_tokens=False)
            losses[name].append(values["loss"])
            seconds[name].append(time.perf_counter() - began)
    if world.is_writer:
        figures = {name: statistics.median(values[2:]) for name, values in seconds.items()}
        target.write_text(json.dumps({"seconds": figures, "bytes": size, "losses": losses}))
    dist.destroy_process_group()


def measure(repeats: int) -> dict[str, Any]:
    """Medians of the first process, and the share that is hidden."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "figures.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--rdzv-backend",
            "c10d",
        ]
        command += [
            "--rdzv-endpoint",
            "127.0.0.1:0",
            "-m",
            "benchmarks.overlap",
            "--process",
            str(target),
        ]
        root, environment = Path(__file__).parents[1], {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--repeats", str(repeats)], check=True, cwd=root, env=environment)  # noqa: S603 - ourselves
        figures: dict[str, Any] = json.loads(target.read_text())
    none, end, overlapping = (figures["seconds"][name] for name in WAYS)
    return {**figures, "hidden": 1 - (overlapping - none) / (end - none)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        process(given.process, given.repeats)
        return
    figures = measure(given.repeats)
    print(f"gradients of {figures['bytes'] / 2**20:.1f} MiB")
    for name, seconds in figures["seconds"].items():
        print(f"{name:>22}: {seconds * 1e3:7.1f} ms a step")
    print(f"hidden: {figures['hidden']:.0%}")


if __name__ == "__main__":
    main()
