"""The first hour on a GPU: one command, one table, with the card's name. It was not run on a GPU
yet.

Run `.venv/bin/python -m benchmarks.gpu` from the repository's root, with `--json FILE` to keep the
figures; the tests that need a card are run by `make test-gpu`. `--device cpu --quick` shows that it
works, on a machine without one. Measured are:

- attaching gated blocks changes no feature (a difference of 0);
- the step of `gated-image` on ViT-B/32 against the published design, in fp32 and bf16: images a
  second, share of the operations that the card does in matrix products of the same shape (its
  utilisation), peak memory;
- losses in bf16, and of the published step, against ours in fp32, on the same batches;
- a training as it runs, from JPEGs to steps: images a second, share of the time that it waits for
  data;
- embedding: images a second of the image tower in bf16;
- the normalisation of pixels there against the model's own preprocessing on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from benchmarks import customize
from benchmarks import published as steps
from benchmarks.engine import DOMAIN, INPUTS, publish
from benchmarks.operations import timed
from react_pipeline.clip import ImageTower, Pixels
from react_pipeline.clip.model import from_parts
from react_pipeline.corpus import CollectedPairs
from react_pipeline.pages import markdown_table
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import Scratch, Store
from react_pipeline.training import GatedImage, TrainingObserver
from react_pipeline.training.data import Views
from react_pipeline.training.trainer import Trainer
from react_pipeline.training.world import World

Rows = list[tuple[str, Any]]
CONFIG = PreprocessCfg(size=224)


def steps_taken(given: argparse.Namespace) -> Rows:
    """Speed, utilisation and memory of single steps, and losses in two precisions."""
    names = [name for name, variant in customize.VARIANTS.items() if not variant.compiled]
    memory = {name: customize.peak_memory_bytes(given, name) for name in names}
    model = steps.random_model(given.device)
    rows, rates = customize.variants(model, memory, given)
    found: Rows = [
        (f"matrix products, {name}, TFLOP/s", rate / 1e12) for name, rate in rates.items()
    ]
    for name, row in rows.items():
        found.append((f"{name}: images/s", row["images/s (best)"]))
        found.append((f"{name}: times the published step", row["ratio of best"]))
        found.append((f"{name}: utilisation of matrix products", row["share of floor"]))
        found.append((f"{name}: peak MiB", row["peak MiB"]))
    curves = customize.curves(model, given)
    reference = curves[customize.OURS_FP32]
    for name in (customize.PUBLISHED, customize.OURS_BF16):
        apart = max(abs(one - other) for one, other in zip(reference, curves[name], strict=True))
        found.append((f"largest difference of {len(reference)} losses, ours fp32 to {name}", apart))
    return found


def training(given: argparse.Namespace, precision: str) -> Rows:
    """A whole training from JPEGs, and what it found at its first step."""
    workers = 2 if given.quick else max(1, (os.cpu_count() or 2) - 1)
    size, count = (4, 3) if given.quick else (256, 60)
    config = TrainingConfig(
        steps=count, batch_size=size, workers=workers, precision=precision, warmup_steps=2
    )  # type: ignore[arg-type]
    config = config.model_copy(update={"held_out_fraction": 0.002, "checkpoint_every": count})
    model_cfg: Any = steps.open_clip.get_model_config(steps.ARCHITECTURE)
    model = steps.open_clip.create_model(steps.ARCHITECTURE, pretrained=None)
    clip = from_parts(model, model_cfg, {"mean": CONFIG.mean, "std": CONFIG.std}, None)
    clip.model.to(given.device)
    clip.device = given.device
    with tempfile.TemporaryDirectory() as directory:
        pairs = CollectedPairs(
            publish(Store(Path(directory) / "store"), 500 if given.quick else 20_000)
        )
        world, metrics = World(device=given.device), Path(directory) / "metrics.jsonl"
        scratch = Scratch(Path(directory))
        trainer = Trainer(clip, pairs, DOMAIN, GatedImage(), config, world, scratch, metrics)
        counts = trainer.run(TrainingObserver(), INPUTS)
        lines = metrics.read_text().splitlines()
    tail = [json.loads(line) for line in lines[len(lines) // 2 :]]
    title = f"training from JPEGs, {precision}, {workers} decoding processes"
    return [
        (f"{title}: change of features by attaching", counts["step0_max_difference"]),
        (
            f"{title}: images/s, second half",
            sum(one["images_per_second"] for one in tail) / len(tail),
        ),
        (
            f"{title}: share of the time that waits for data",
            sum(one["data_wait_fraction"] for one in tail) / len(tail),
        ),
        (f"{title}: peak MiB", counts["peak_memory_bytes"] / 2**20),
    ]


def embedding(given: argparse.Namespace) -> Rows:
    """Images a second through the tower alone."""
    model = steps.random_model(given.device)
    model.requires_grad_(False)
    tower = ImageTower(model)
    images = torch.randn(4 if given.quick else 256, 3, 224, 224, device=given.device)

    def take(_step: int) -> float:
        with torch.no_grad(), torch.autocast(given.device, torch.bfloat16):
            tower.visual(images)
        return 0.0

    return [
        (
            "embedding, bf16: images/s",
            len(images) / min(timed({"": take}, given.repeats, given.device)[""]),
        )
    ]


def pixels(given: argparse.Namespace) -> Rows:
    """How far the normalisation on the device is from the model's own preprocessing."""
    preprocess = image_transform_v2(CONFIG, is_train=False)
    made = Pixels(preprocess)
    with tempfile.TemporaryDirectory() as directory:
        pairs = CollectedPairs(publish(Store(Path(directory)), 64))
        views = Views(pairs, made)
        (batch,) = views.batches([[(position, 0) for position in range(8)]], 0, given.device)
        expected = torch.stack([preprocess(pairs.decoded(position)) for position in range(8)])
    return [("pixels, largest difference to a CPU's", float((batch.cpu() - expected).abs().max()))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--quick", action="store_true", help="tiny batches, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if given.device == "cpu" and not given.quick:
        parser.error("there is no GPU: give --device cpu --quick to see that it works")
    given.batch, given.repeats, given.curve_steps = (4, 1, 2) if given.quick else (256, 10, 30)
    given.threads, given.peak_tflops = torch.get_num_threads(), None
    card = (
        torch.cuda.get_device_name()
        if given.device == "cuda"
        else f"a CPU, {given.threads} threads"
    )
    rows: Rows = [
        ("card", card),
        ("torch", torch.__version__),
        *pixels(given),
        *steps_taken(given),
        *embedding(given),
    ]
    for precision in ("bf16",) if given.quick else ("bf16", "fp16", "fp32"):
        rows += training(given, precision)
    print(markdown_table(["what", "figure"], rows))
    if given.json:
        given.json.write_text(json.dumps(dict(rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
