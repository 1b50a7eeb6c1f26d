"""What a training computes once: which pairs it sees, the modules it adds, the vectors of texts,
and what stays frozen of every image.

Does not belong here: the loop (`train`). Shapes: B pairs of a batch, N pairs, T tokens, W width, D
embedding dimension.
"""

import math
from collections.abc import Callable, Mapping
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
    image_tower,
)
from react_pipeline.training.guards import require_memory
from react_pipeline.training.held_out import image_text_recall, require_held_out, split_held_out
from react_pipeline.training.kept import TrainingTexts, keep_tokens
from react_pipeline.training.losses import require_suitable
from react_pipeline.training.methods import ModelMethod
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import fit_batch_size, max_log_scale, parameter_groups
from react_pipeline.training.step import TrainingStep

STATE_BYTES = 12
"""Bytes that each trained number adds to itself: its gradient and AdamW's two moments."""

COMPARED_IMAGES = 16
"""Images whose features are compared with the base's before the first step."""


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
    texts = TrainingTexts(clip, c.pairs, c.domain, training, world, c.scratch)
    if not trains_text(model):  # its vectors are there, and a GPU has better use for the memory
        for weight in text_parameters(model).values():
            weight.data = weight.data.cpu()
    encoder = ImageEncoder(model, image_tower(model, training, world.device), training, world)
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
