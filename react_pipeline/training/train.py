"""The training of one method on one set of pairs: compute once what stays the same, then step, log,
guard and keep.

Source of the recipe: REACT (arXiv 2301.07094). Does not belong here: one step (`step`). Shapes: B
pairs of a batch, N pairs, T tokens, W width, D embedding dimension.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from react_pipeline.clip import (
    COUNTED,
    Clip,
    Pixels,
    choose_precision,
    device_counts,
    recompute_activations,
    text_parameters,
    trains_text,
)
from react_pipeline.settings import TrainingConfig
from react_pipeline.training.augmentation import Augmentation
from react_pipeline.training.customization import Customization
from react_pipeline.training.data import (
    ENCODED_AT_ONCE,
    ImageEncoder,
    TrainingBatches,
    Views,
)
from react_pipeline.training.guards import (
    LESS_MEMORY,
    explained_out_of_memory,
    require_memory,
    require_no_collapse,
    require_trained,
)
from react_pipeline.training.held_out import (
    choose_fraction,
    image_text_recall,
    require_held_out,
    split_held_out,
)
from react_pipeline.training.kept import TrainingTexts, keep_tokens
from react_pipeline.training.log import TrainingLog
from react_pipeline.training.losses import require_suitable
from react_pipeline.training.methods import ModelMethod
from react_pipeline.training.resume import TrainingState, resume, save_state
from react_pipeline.training.schedule import fit_batch_size, max_log_scale, parameter_groups
from react_pipeline.training.step import TrainingStep

STATE_BYTES = 12
"""Bytes that each trained number adds to itself: its gradient and AdamW's two moments."""

COMPARED_IMAGES = 16
"""Images whose features are compared with the base's before the first step."""

PROBED_PAIRS = 256
"""Held-out pairs whose recall is measured at each checkpoint; before and after it is that of all.
"""


@dataclass(frozen=True)
class Preparation:
    """One training before its first step.

    Attributes:
        held_out: Positions of the pairs that are not trained on.
        line: Called after the training, returns what moves the model between base and trained.
        fits: How many pairs fit the memory at once, in words.
        counts: For the manifest.
    """

    batches: TrainingBatches
    held_out: Tensor
    step: TrainingStep
    line: Callable[[], Callable[[float], None]]
    fits: str
    counts: Mapping[str, Any]

    @torch.no_grad()
    def recall(self, count: int | None = None) -> dict[str, float]:
        """Return image-text recall of the first `count` held-out pairs, of all by default; empty
        where none is held out.
        """
        positions = self.held_out[:count]
        if not len(positions):
            return {}
        captions = self.step.texts.caption_ids(positions)
        parts = captions.split(ENCODED_AT_ONCE)
        texts = torch.cat([self.step.texts.vectors(part).cpu() for part in parts])
        images = self.step.images.vectors(self.batches.views, positions, self.batches.tokens)
        return image_text_recall(images, texts, captions)


def train_model(method: ModelMethod, customization: Customization, clip: Clip) -> dict[str, Any]:
    """Train the method's part of `clip` in place; return the counts of the manifest.

    Every process of the world calls this alike. The one that writes leaves a line a step in
    `metrics.jsonl`, and notifies the observer.

    Args:
        clip: The base, on the world's device, which a frozen text tower leaves.

    Raises:
        InputError: If the batch does not divide among the processes, or the loss does not suit
            the model.
        RetrievalError: If there are fewer than two pairs to train on.
        TrainingError: If a guard stops it or memory runs out. States of the last good steps
            stay in the scratch.
    """
    began = time.monotonic()
    prepared = prepare(method, customization, clip)
    state, steps, pairs = prepared.step.state, prepared.counts["steps"], len(prepared.held_out)
    before, probed = prepared.recall(), prepared.recall(PROBED_PAIRS)
    resume(state, customization.scratch, customization.world)
    first_step, began = state.step, began - state.seconds  # of the tries before a kill
    counts = _take_steps(customization, prepared, probed, began)
    require_trained(state.trained.values(), state.skipped[0], steps)
    # Judged before it is interpolated: going back to the base would hide a collapse.
    after = prepared.recall()
    require_no_collapse(steps, before, after, pairs)
    fraction, scores = _interpolate(prepared)
    return {
        **prepared.counts,
        **counts,
        "first_step": first_step,
        "skipped_steps": state.skipped[0],
        "held_out_before": before,
        "held_out_after": after if fraction == 1 else prepared.recall(),
        "interpolation": fraction,
        "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
        # With what was computed once, such as the frozen part.
        "seconds": round(time.monotonic() - began, 3),
    }


def _take_steps(
    customization: Customization,
    prepared: Preparation,
    probed: Mapping[str, float],
    began: float,
) -> dict[str, Any]:
    """Take all steps that are left; return speed, memory, and the first and the last loss.

    Args:
        probed: Recall of the base on the first `PROBED_PAIRS` held-out pairs.
    """
    c, p, batches, state = customization, prepared, prepared.batches, prepared.step.state
    training, size = batches.training, batches.size
    steps = range(state.step, training.steps)
    with (
        TrainingLog(c, steps, size, state.log) as log,
        closing(batches.stream(steps)) as stream,
    ):
        for step in steps:
            started = time.monotonic()
            batch = next(stream)
            waited = time.monotonic() - started
            with explained_out_of_memory(f"with batch_size {size}: {p.fits}", LESS_MEMORY):
                values = p.step.take(step, batch, batches.pairs(step))
            seconds = time.monotonic() - started
            log.add(step, values, waited=waited, seconds=seconds)
            if (step + 1) % training.checkpoint_every == 0:
                # Nothing is kept before it is known to be good.
                pairs = len(p.held_out[:PROBED_PAIRS])
                require_no_collapse(step + 1, probed, p.recall(PROBED_PAIRS), pairs)
                if c.world.is_writer:
                    state.step, state.seconds = step + 1, time.monotonic() - began
                    save_state(state.content(), c.scratch)
        return log.counts()


def _interpolate(prepared: Preparation) -> tuple[float, dict[float, float]]:
    """Move the model along its line to the point that `choose_fraction` chooses."""
    move_to = prepared.line()

    def score(fraction: float) -> float:
        move_to(fraction)
        recall = prepared.recall()
        return sum(recall.values()) / len(recall)

    fraction, scores = choose_fraction(prepared.batches.training.interpolation, score)
    move_to(fraction)
    return fraction, scores


def prepare(method: ModelMethod, customization: Customization, clip: Clip) -> Preparation:
    """Attach what the method trains to `clip`, and compute once what stays frozen; arguments and
    errors as of `train_model`.
    """
    c, world, model = customization, customization.world, clip.model
    require_suitable(c.training.loss, model)
    trained_on, held_out = split_held_out(c.pairs, c.training.held_out_fraction, c.training.seed)
    require_held_out(c.training.interpolation, len(held_out), len(c.pairs))
    size = fit_batch_size(c.training, len(trained_on), world.size)
    # All processes take what the writer takes: they need not run on equal machines.
    precision = world.broadcast(choose_precision(c.training.precision, world.device))
    training = c.training.in_steps(len(trained_on), size)
    training = training.model_copy(update={"precision": precision})
    augment = Augmentation(clip.preprocess_cfg) if training.augmentation == "timm" else None
    views = Views(c.pairs, Pixels(clip.preprocess), augment, training.seed)
    some = views.batch(trained_on[:COMPARED_IMAGES])
    base_names = frozenset(dict(model.named_parameters()))
    difference = _attach(method, clip, training, some)
    if training.activation_checkpointing:
        recompute_activations(model)
    texts = TrainingTexts(clip, c)
    if not trains_text(model):  # its vectors are there, and a GPU has better use for the memory
        for weight in text_parameters(model).values():
            weight.data = weight.data.cpu()
    encoder = ImageEncoder(model, training, world)
    tokens = keep_tokens(encoder, views, c.scratch)
    batches = TrainingBatches(trained_on, size, views, tokens, training, world)
    state = _initial_state(model, training, size, world.device_type)
    # Of the base, not of a state that is resumed from.
    limit = max_log_scale(training.loss, model.logit_scale.item())
    step = TrainingStep(encoder, texts, state, method.loss, limit, partial(method.watched, model))
    few = texts.longest(trained_on[:size], 2 * COUNTED)
    sample = some[: len(few)] if tokens is None else tokens[few]
    pair_bytes = step.pair_bytes(sample.to(world.device), few)
    part = math.ceil(size // world.size / training.accumulation)
    trainable = sum(map(Tensor.numel, state.trained.values()))
    fits = require_memory(part, pair_bytes, STATE_BYTES * trainable, world.device)
    counts = {
        "pairs": len(c.pairs),
        "held_out_pairs": len(held_out),
        "steps": training.steps,
        "trainable_parameters": trainable,
        "parameters": sum(map(Tensor.numel, model.parameters())),
        "step0_max_difference": difference,
        "prefix_kept": tokens is not None,
        **device_counts(world.device),
        "precision": precision,
        "processes": world.size,
        "pair_bytes": pair_bytes,
    }
    moving = state.trained if training.interpolation != 1 else {}
    start = {name: weight.detach().cpu().clone() for name, weight in moving.items()}
    line = partial(method.line, model, start, base_names)
    return Preparation(batches, held_out, step, line, fits, counts)


def _attach(method: ModelMethod, clip: Clip, training: TrainingConfig, images: Tensor) -> float:
    """Attach and unfreeze; return the largest change this made to the features of a few images
    (B, 3, H, W).
    """
    # All frozen on both sides: PyTorch takes another kernel where a weight wants a gradient, and
    # rounds otherwise.
    clip.model.requires_grad_(False)
    before = clip.encode_images(images)
    torch.manual_seed(training.seed)
    method.attach_to(clip, training)
    clip.model.requires_grad_(False)
    difference = float((clip.encode_images(images) - before).abs().max())
    method.set_trainable(clip.model)
    return difference


def _initial_state(
    model: nn.Module, training: TrainingConfig, batch_size: int, device_type: str
) -> TrainingState:
    """Return the parameters that train, with an optimizer that has taken no step."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    groups = parameter_groups(trained.items(), training.weight_decay)
    optimizer = torch.optim.AdamW(
        groups, training.learning_rate, (0.9, 0.98), training.adam_eps, fused=True
    )
    scaler = torch.amp.GradScaler(device_type, enabled=training.precision == "fp16")
    return TrainingState(trained, optimizer, scaler, batch_size)
