"""One optimizer step of `gated-image`: ours against the published design of REACT, which is written out plainly here.

Run `.venv/bin/python benchmarks/customize.py` (`--quick` only to see that it works). Both train the same model, shaped
like ViT-B/32 with random weights and six gated blocks, on the same batch with the same threads. The steps of all
variants are taken in turns, so that what else the machine does hits all of them alike. Batches lie ready in memory:
reading, decoding and augmenting images is not measured, and kept vectors and tokens are made before the clock starts.

Shapes: B pairs of a batch, T tokens of an image, L token ids of a text, W width, D embedding dimension, U texts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from react_pipeline.attention import feed_forward, self_attention
from react_pipeline.distributed import World
from react_pipeline.gated import GatedBlock, gated_layers
from react_pipeline.methods import attach, set_trainable, text_parameters
from react_pipeline.resume import TrainingState
from react_pipeline.schedule import MAX_LOG_SCALE, learning_rate, parameter_groups
from react_pipeline.tower import ImageTower
from react_pipeline.training_config import TrainingConfig
from react_pipeline.training_step import TrainingStep
from react_pipeline.training_texts import DrawnTexts
from react_pipeline.weights import map_weights

ARCHITECTURE, GATED = "ViT-B-32-quickgelu", 6
TRAINING = TrainingConfig(warmup_steps=2, steps=1_000)
MEMORY_STEPS = 3

OUR_LOOP = "our loop around the published parts: guards, gradient norm"
TEXTS = "text vectors kept"
NO_CHECKPOINTING = "no forced checkpointing"
LAYOUT = "attention laid out on (B, T, W)"
LEAN_GELU = "QuickGELU that keeps its input alone"
CLASS_TOKEN = "class token alone in the last block"  # noqa: S105 - a token of a transformer
FUSED = "fused optimizer"
BF16 = "bf16 (autocast)"
HELD = "frozen weights held in bf16"
PREFIX = "frozen first blocks kept as tokens"
PARTS = (OUR_LOOP, TEXTS, NO_CHECKPOINTING, LAYOUT, LEAN_GELU, CLASS_TOKEN, FUSED, BF16, HELD, PREFIX)
"""What our step does and the published one does not, in the order in which the ablation switches them on."""

FP32 = frozenset(PARTS[: PARTS.index(FUSED) + 1])
Take = Callable[[int], float]
"""Takes step number n on batch n and returns its loss."""

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A way to take a step: its parts (none: the published design), and the ratio of speeds that is wanted of it."""

    parts: frozenset[str] = frozenset()
    wanted: float | None = None
    compiled: bool = False


VARIANTS = {
    "published fp32": Variant(),
    "ours fp32": Variant(FP32, 1.5),
    "ours fp32 compiled": Variant(FP32, 1.5, compiled=True),
    "ours bf16": Variant(FP32 | {BF16, HELD}, 2.6),
    "ours bf16, tokens kept": Variant(frozenset(PARTS), 3.5),
}
PUBLISHED, OURS_FP32, OURS_BF16 = "published fp32", "ours fp32", "ours bf16"


@dataclass(frozen=True)
class Batches:
    """Random pairs: images (N, B, 3, H, W) and token ids (N, B, L)."""

    images: Tensor
    texts: Tensor

    @classmethod
    def random(cls, model: Any, count: int, size: int, device: str, seed: int = 0) -> Batches:
        """Images are patterns of few colours rather than noise, which a tower would average away."""
        rng = torch.Generator().manual_seed(seed)
        pixels, length = model.visual.image_size[0], model.context_length
        coarse = torch.randn(count * size, 3, 4, 4, generator=rng)
        images = functional.interpolate(coarse, size=pixels, mode="nearest").view(count, size, 3, pixels, pixels)
        last = model.vocab_size - 1  # the largest id ends a text; the tower pools there
        texts = torch.randint(1, last, (count, size, length), generator=rng)
        texts[..., -1] = last
        return cls(images.to(device), texts.to(device))

    def reordered(self) -> Batches:
        """The same pairs in another order within each batch: mathematically the same loss."""
        order = torch.randperm(self.images.shape[1], generator=torch.Generator().manual_seed(1))
        return Batches(self.images[:, order], self.texts[:, order])


def random_model(device: str, blocks_seed: int = 0) -> Any:
    """The model of this benchmark, of which the gated blocks and the logit scale train."""
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    torch.manual_seed(1 + blocks_seed)
    attach(model, "gated-image", GATED)
    set_trainable(model, "gated-image")
    return model.to(device)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


# The published design: everything at every step, by the modules of open_clip and PyTorch.


def published_block(x: Tensor, block: GatedBlock) -> Tensor:
    """What the published gated block makes of tokens (B, T, W)."""
    normed = block.ln_1(x)
    x = x + block.alpha_attn.tanh() * block.attn(normed, normed, normed, need_weights=False)[0]
    return x + block.alpha_dense.tanh() * block.mlp(block.ln_2(x))


def published_features(visual: Any, images: Tensor) -> Tensor:
    """Image features (B, D), not normalised; gated blocks are checkpointed where their input has a gradient."""
    x = visual._embeds(images)
    for host in visual.transformer.resblocks:
        block = getattr(host, "gated_attn_block", None)
        if block is not None:
            forced = x.requires_grad
            x = checkpoint(published_block, x, block, use_reentrant=False) if forced else published_block(x, block)
        x = host.forward(x)  # `forward`, since calling the host would run our gated block before it
    pooled, _ = visual._pool(x)
    return pooled @ visual.proj


def published_loss(model: Any, images: Tensor, texts: Tensor) -> Tensor:
    """Symmetric InfoNCE of images (B, 3, H, W) and token ids (B, L)."""
    with torch.no_grad():
        text_features = functional.normalize(model.encode_text(texts), dim=-1)
    image_features = functional.normalize(published_features(model.visual, images), dim=-1)
    logits = model.logit_scale.exp() * image_features @ text_features.T
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def published_step(model: Any, batches: Batches) -> Take:
    """The published step; nothing is computed before it."""
    optimizer = adamw(model)

    def take(step: int) -> float:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, TRAINING)
        optimizer.zero_grad()
        number = step % len(batches.images)
        loss = published_loss(model, batches.images[number], batches.texts[number])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return loss.item()

    return take


def adamw(model: nn.Module, *, fused: bool | None = None) -> torch.optim.AdamW:
    """AdamW of the recipe; `fused` None is PyTorch's own choice, which is not the fused one."""
    groups = parameter_groups(trained(model).items(), TRAINING.weight_decay)
    return torch.optim.AdamW(groups, lr=TRAINING.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=fused)


# Ours: the classes that train or, for the ablation, the same with some parts left as published.


class PartialTower(ImageTower):
    """Our tower with some of its parts on; with all of them it computes what `ImageTower` does."""

    def __init__(self, model: nn.Module, parts: frozenset[str]) -> None:
        """Switch on what is in `parts`."""
        super().__init__(model)
        self._parts = parts

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """As `ImageTower.tokens`."""
        tokens = self._entering(0, images)
        for block in self.blocks[: self.start]:
            tokens = self._host(block, tokens)
        return tokens

    def _block(self, number: int, tokens: Tensor) -> Tensor:
        block: Any = self.blocks[number]
        alone = CLASS_TOKEN in self._parts and number == len(self.blocks) - 1
        if NO_CHECKPOINTING not in self._parts and tokens.requires_grad:
            tokens = checkpoint(self._gated, block.gated_attn_block, tokens, use_reentrant=False)
        else:
            tokens = self._gated(block.gated_attn_block, tokens)
        return self._host(block, tokens, alone=alone)

    def _gated(self, block: Any, x: Tensor) -> Tensor:
        if LAYOUT not in self._parts:
            return published_block(x, block)
        x = x + block.alpha_attn.tanh() * self_attention(block.ln_1(x), block.attn)
        return x + block.alpha_dense.tanh() * self._mlp(block, x)

    def _host(self, block: Any, x: Tensor, *, alone: bool = False) -> Tensor:
        if LAYOUT not in self._parts:
            return block.forward(x)
        attended = self_attention(block.ln_1(x), block.attn, self.casts, class_token_only=alone)
        x = (x[:, :1] if alone else x) + attended
        return x + self._mlp(block, x)

    def _mlp(self, block: Any, x: Tensor) -> Tensor:
        if LEAN_GELU in self._parts:
            return feed_forward(block.ln_2(x), block.mlp, self.casts)
        return block.mlp(block.ln_2(x))


class Texts:
    """Unit vectors of the texts of all batches, kept or made at every step; stands for `TrainingTexts`."""

    def __init__(self, model: Any, batches: Batches, *, kept: bool) -> None:
        """Encode all texts now if they are to be kept."""
        self._model, self._tokens = model, batches.texts.flatten(0, 1)
        self._vectors = torch.cat([self._encoded(part) for part in self._tokens.split(256)]) if kept else None

    def vectors(self, texts: Tensor) -> Tensor:
        """Unit vectors (B, D) of the texts at these positions."""
        return self._encoded(self._tokens[texts]) if self._vectors is None else self._vectors[texts]

    @torch.no_grad()
    def _encoded(self, tokens: Tensor) -> Tensor:
        return self._model.encode_text(tokens, normalize=True)


def our_step(model: Any, batches: Batches, parts: frozenset[str], tower: ImageTower, device: str) -> Take:
    """The step that trains, `TrainingStep`, with these parts on."""
    training = TRAINING.model_copy(update={"precision": "bf16" if BF16 in parts else "fp32"})
    if HELD in parts:
        tower.use_bf16()
    optimizer = adamw(model, fused=True if FUSED in parts else None)
    state = TrainingState(trained(model), optimizer, torch.amp.GradScaler(device, enabled=False))
    model.eval()
    texts: Any = Texts(model, batches, kept=TEXTS in parts)
    real = TrainingStep(model, tower, texts, state, training, World(device=device))
    size = batches.images.shape[1]
    inputs: Sequence[Tensor] = batches.images
    if PREFIX in parts:
        with torch.autocast(device, torch.bfloat16, enabled=BF16 in parts):
            inputs = [tower.tokens(images).to(torch.bfloat16) for images in batches.images]

    def take(step: int) -> float:
        # In eval mode nn.MultiheadAttention has a faster path without gradients: the published design trains.
        model.train(LAYOUT not in parts)
        number = step % len(inputs)
        positions = torch.arange(number * size, (number + 1) * size)
        drawn = DrawnTexts(positions, positions, torch.full_like(positions, -1))
        return real.take(step, inputs[number], drawn, from_tokens=PREFIX in parts)["loss"]

    return take


def step_of(name: str, model: Any, batches: Batches, device: str) -> Take:
    """The step of a variant."""
    parts = VARIANTS[name].parts
    if not parts:
        return published_step(model, batches)
    return our_step(model, batches, parts, ImageTower(model, compiled=VARIANTS[name].compiled), device)


# What is measured.


def timed(takes: Mapping[str, Take], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of single steps, all in turns, after one step each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for step in range(repeats + 1):
        for name, take in takes.items():
            began = time.perf_counter()
            take(step)
            if device == "cuda":
                torch.cuda.synchronize()
            if step:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def operations(model: Any, batch: int, parts: frozenset[str]) -> tuple[float, float]:
    """Floating-point operations of a step in matrix products: of the image tower, of the text tower.

    Forward, a block on R = B T rows takes 24 R W^2 in its linear layers (attention 4 W x W, MLP 8 W x W, two operations
    a multiplication) and 4 R T W in attention's two products. Backward, the gradient of a linear layer's input takes as
    much as its forward, that of its weight again as much, and attention twice its forward. So a gated block takes 3
    times its linear layers, a frozen block behind it twice, both 3 times their attention; a frozen block before the
    first gated one takes its forward alone. Forced checkpointing adds the forward of every gated block but the first.
    Left out: the loss, and what is no matrix product (norms, activations, the optimizer).
    """
    visual, layers, gated = model.visual, len(model.visual.transformer.resblocks), len(gated_layers(model))
    tokens, width = visual.positional_embedding.shape
    rows = batch * tokens
    linear, attention = 24 * rows * width**2, 4 * rows * tokens * width
    # The projection at the end is frozen: its forward, and the gradient of its input.
    image = gated * (5 * linear + 6 * attention) + 4 * batch * width * visual.output_dim
    if PREFIX not in parts:
        patches = 2 * (rows - batch) * visual.conv1.weight.numel()
        image += patches + (layers - gated) * (linear + attention)
    if NO_CHECKPOINTING not in parts:
        image += (gated - 1) * (linear + attention)
    if CLASS_TOKEN in parts:
        # Of the last block: keys and values of all tokens (4 R W^2), the rest of one (20 B W^2), attention 4 R W.
        image -= 2 * (linear - 4 * rows * width**2 - 20 * batch * width**2) + 3 * (attention - 4 * rows * width)
    if TEXTS in parts:
        return image, 0.0
    length, width = model.positional_embedding.shape
    text = len(model.transformer.resblocks) * batch * length * (24 * width**2 + 4 * length * width)
    return image, text + 2 * batch * width * visual.output_dim


def matmul_rate(rows: int, width: int, dtype: torch.dtype, given: argparse.Namespace) -> float:
    """Operations a second of a block's four linear layers on (rows, W), each at its best."""
    device, seconds = given.device, 0.0
    for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        weight, bias = torch.randn(outputs, inputs, device=device, dtype=dtype), torch.zeros(outputs).to(x)

        def take(_step: int, x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> float:
            functional.linear(x, weight, bias)
            return 0.0

        seconds += min(timed({"": take}, 3 + 3 * given.repeats, device)[""])
    return 24 * rows * width**2 / seconds


def peak_memory_bytes(given: argparse.Namespace, name: str) -> int:
    """Peak memory of a fresh process that takes a few steps of one variant."""
    command = [sys.executable, __file__, "--memory-of", name, "--batch", str(given.batch), "--device", given.device]
    command += ["--threads", str(given.threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - ourselves


def take_few_steps(given: argparse.Namespace) -> int:
    """What the fresh process does: peak memory in bytes, of the GPU's allocator or of the process."""
    model = random_model(given.device)
    take = step_of(given.memory_of, model, Batches.random(model, 1, given.batch, given.device), given.device)
    with tempfile.TemporaryDirectory() as directory:
        if TEXTS in VARIANTS[given.memory_of].parts:
            # As the trainer does once it has the vectors: the frozen text tower is mapped from the base's file.
            path, names = Path(directory) / "base.safetensors", text_parameters(model)
            parameters = dict(model.named_parameters())
            save_file({name: parameters[name].detach() for name in names}, path)
            map_weights(model, names, path)
        for step in range(MEMORY_STEPS):
            take(step)
    if given.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def curves(model: Any, given: argparse.Namespace) -> dict[str, list[float]]:
    """Losses of short trainings that all see the same pairs from the same weights, but for what their name says.

    What a difference to the published fp32 run is to be measured by: for fp32 the published step with the pairs of each
    batch in another order, which changes rounding alone; for bf16 the published step with another seed of the new
    blocks, since two users who repeat a training differ by that.
    """
    batches = Batches.random(model, given.curve_steps, given.batch, given.device)
    start = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
    other = {name: parameter.detach() for name, parameter in trained(random_model(given.device, 1)).items()}
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
            for key, parameter in trained(model).items():
                parameter.copy_(weights[key])
        take = step_of(variant, model, pairs, given.device)
        losses[name] = [take(step) for step in range(given.curve_steps)]
    return losses


# The report.


def speed_rows(seconds: Mapping[str, list[float]], batch: int) -> dict[str, dict[str, float]]:
    """Images a second, and ratios to the published step, of the best and of the median step."""
    reference = seconds[PUBLISHED]
    return {
        name: {
            "images/s (best)": batch / min(taken),
            "ratio of best": min(reference) / min(taken),
            "ratio of median": statistics.median(reference) / statistics.median(taken),
        }
        for name, taken in seconds.items()
    }


def variants(model: Any, memory: Mapping[str, int], given: argparse.Namespace) -> tuple[Rows, dict[str, float]]:
    """Each variant in turns, with its share of the floor; and operations a second of matrix products, of the same run.

    The floor of a variant is the time its matrix products take at these rates.
    """
    batches = Batches.random(model, 1, given.batch, given.device)
    takes = {name: step_of(name, model, batches, given.device) for name in memory}
    rows: Rows = speed_rows(timed(takes, given.repeats, given.device), given.batch)
    (tokens, width), (length, text_width) = model.visual.positional_embedding.shape, model.positional_embedding.shape
    rates = {
        "fp32": matmul_rate(given.batch * tokens, width, torch.float32, given),
        "bf16": matmul_rate(given.batch * tokens, width, torch.bfloat16, given),
        "text fp32": matmul_rate(given.batch * length, text_width, torch.float32, given),
    }
    for name, row in rows.items():
        parts = VARIANTS[name].parts
        image, text = operations(model, given.batch, parts)
        best_seconds = given.batch / row["images/s (best)"]
        floor_seconds = image / rates["bf16" if BF16 in parts else "fp32"] + text / rates["text fp32"]
        row |= {"wanted": VARIANTS[name].wanted, "GFLOP": (image + text) / 1e9}
        row |= {"share of floor": floor_seconds / best_seconds}
        row |= {"peak MiB": memory[name] / 2**20, "memory ratio": memory[name] / memory[PUBLISHED]}
        if given.peak_tflops:
            row["FLOPs utilisation"] = (image + text) / best_seconds / (given.peak_tflops * 1e12)
    return rows, rates


def ablation(model: Any, given: argparse.Namespace) -> Rows:
    """One part after the other switched on, in turns with the published step; fewer repeats."""
    batches = Batches.random(model, 1, given.batch, given.device)
    takes = {PUBLISHED: step_of(PUBLISHED, model, batches, given.device)}
    for count, part in enumerate(PARTS, 1):
        parts = frozenset(PARTS[:count])
        takes[f"+ {part}"] = our_step(model, batches, parts, PartialTower(model, parts), given.device)
    rows: Rows = speed_rows(timed(takes, max(1, given.repeats // 2), given.device), given.batch)
    for before, now in itertools.pairwise(rows.values()):
        now["to the row before"] = now["ratio of best"] / before["ratio of best"]
    return rows


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=None, help="pairs (default: 32, quick: 8)")
    parser.add_argument("--repeats", type=int, default=None, help="steps of each variant that count (default: 7)")
    parser.add_argument("--curve-steps", type=int, default=None, help="steps of the loss curves (default: 12)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda was not run yet")
    parser.add_argument("--peak-tflops", type=float, default=None, help="of the device, to tell the share in use")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler and a minute")
    parser.add_argument("--quick", action="store_true", help="batch 8, one repeat, short curves, no ablation")
    parser.add_argument("--json", type=Path, default=None, help="write everything that was measured to this file")
    parser.add_argument("--memory-of", choices=VARIANTS, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name, usual, quick in (("batch", 32, 8), ("repeats", 7, 1), ("curve_steps", 12, 3)):
        if getattr(given, name) is None:
            setattr(given, name, quick if given.quick else usual)
    return given


def show(title: str, rows: Rows) -> None:
    """Print a table."""
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(f"\n{title}\n{table.to_string(float_format='{:.2f}'.format, na_rep='-')}", flush=True)


def main() -> None:
    """Measure memory, speed, the parts and the curves, in this order, and print them."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(take_few_steps(given))
        return
    setting = f"batch {given.batch}, {given.threads} threads, {given.device}, torch {torch.__version__}"
    print(f"{ARCHITECTURE} with {GATED} gated blocks, {setting}; best and median of {given.repeats} steps", flush=True)
    names = [name for name, variant in VARIANTS.items() if given.compile or not variant.compiled]
    # Before this process grows: Linux counts the memory of the process that starts another one to the other's peak.
    memory = {name: peak_memory_bytes(given, name) for name in names}
    model = random_model(given.device)
    rows, rates = variants(model, memory, given)
    show("Variants; wanted of memory is a ratio of at most 1", rows)
    print("a block's matrix products: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    parts = {} if given.quick else ablation(model, given)
    if parts:
        show("One part after the other", parts)
    losses = curves(model, given)
    reference = losses[PUBLISHED]
    print(f"\nLosses of {PUBLISHED}: {reference[0]:.4f} falling to {reference[-1]:.4f} in {len(reference)} steps")
    for name, curve in list(losses.items())[1:]:
        apart = max(abs(one - other) for one, other in zip(reference, curve, strict=True))
        print(f"  {name:45} differs by {apart:.1e} at most")
    if given.json is not None:
        measured = {"variants": rows, "matmul_operations_per_second": rates, "ablation": parts, "losses": losses}
        given.json.write_text(json.dumps({"setting": setting, **measured}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
