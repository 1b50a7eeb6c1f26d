"""What a training computes once: which pairs it sees, the modules it adds, the vectors of texts,
and what stays frozen of every image.

Does not belong here: the loop (`train`). Shapes: B pairs of a batch, N pairs, V views, T tokens, W
width, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from react_pipeline.clip import (
    Clip,
    Pixels,
    choose_precision,
    device_counts,
    map_weights,
    text_parameters,
    trains_text,
)
from react_pipeline.settings import TrainingConfig
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.batches import TrainingBatches
from react_pipeline.training.customization import Customization
from react_pipeline.training.data import Views
from react_pipeline.training.held_out import image_text_recall, split_held_out
from react_pipeline.training.image_encoder import ENCODED_AT_ONCE, ImageEncoder, image_tower
from react_pipeline.training.interpolation import copy_of_weights, require_held_out
from react_pipeline.training.kept_tokens import keep_tokens, may_keep
from react_pipeline.training.losses import require_suitable
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import max_log_scale, parameter_groups
from react_pipeline.training.texts import TrainingTexts

if TYPE_CHECKING:
    from react_pipeline.training.methods.model_method import ModelMethod

Probe = Callable[[ImageEncoder], Mapping[str, float]]
"""Measures a model in training, in every process, for the log alone: nothing depends on it."""

COMPARED_IMAGES = 16
"""Images whose features are compared with the base's before the first step."""


@dataclass(frozen=True)
class Preparation:
    """One training before its first step.

    Attributes:
        training: The configuration with its length in steps and its precision chosen.
        held_out: Positions of the pairs that are not trained on.
        tokens: What need not be computed again, (N, V, T, W) or (N, V, D); None if nothing.
        max_log_scale: Where the logit scale is clamped.
        start: Weights before the first step, for interpolation.
        base_names: Names of the weights that the base has.
        counts: For the manifest.
    """

    training: TrainingConfig
    encoder: ImageEncoder
    texts: TrainingTexts
    views: Views
    batches: TrainingBatches
    held_out: Tensor
    tokens: Tensor | None
    probe: Probe | None
    max_log_scale: float
    start: Mapping[str, Tensor]
    base_names: frozenset[str]
    counts: Mapping[str, Any]

    def initial_state(self) -> TrainingState:
        """Return the parameters that train, with an optimizer that has taken no step."""
        training = self.training
        world = self.encoder.world
        trained = {
            name: parameter
            for name, parameter in self.encoder.model.named_parameters()
            if parameter.requires_grad
        }
        groups = parameter_groups(trained.items(), training.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, training.learning_rate, (0.9, 0.98), training.adam_eps, fused=True
        )
        scaler = torch.amp.GradScaler(world.device_type, enabled=training.precision == "fp16")
        draws = f"of {self.batches.batch_size} pairs"
        if not training.global_negatives:
            # With negatives of its own part only, what a process sees depends on how many there
            # are.
            draws += f" in {world.size} parts"
        return TrainingState(trained, optimizer, scaler, draws=draws)

    @torch.no_grad()
    def recall(self, count: int | None = None) -> dict[str, float]:
        """Return image-text recall of the first `count` held-out pairs, of all by default; empty
        where none is held out.
        """
        positions = self.held_out[:count]
        if not len(positions):
            return {}
        captions = self.texts.caption_ids(positions)
        parts = captions.split(ENCODED_AT_ONCE)
        texts = torch.cat([self.texts.vectors(part).cpu() for part in parts])
        images = self.encoder.vectors(self.views, positions, self.tokens)
        return image_text_recall(images, texts, captions)


def prepare(
    method: ModelMethod, customization: Customization, clip: Clip, weights: Path | None
) -> Preparation:
    """Attach what the method trains to `clip`, and compute once what stays frozen; arguments and
    errors as of `train_model`.
    """
    c = customization
    model: Any = clip.model
    training = c.training
    require_suitable(training.loss, model)
    trained_on, held_out = split_held_out(c.pairs, training.held_out_fraction, training.seed)
    require_held_out(training.interpolation, len(held_out), len(c.pairs))
    views = _views(c, clip)
    batches = TrainingBatches(trained_on, views, training, c.world)
    training = _settled(c, len(trained_on), batches.batch_size)
    base_names = frozenset(name for name, _ in model.named_parameters())
    some = views.batch([(position, 0) for position in trained_on[:COMPARED_IMAGES].tolist()])
    difference, trainable = _attach(method, clip, training, some)
    texts = TrainingTexts(clip, c.pairs, c.domain, training, c.world, c.scratch)
    probe = None
    if training.evaluate_every:
        from react_pipeline.extensions.live_runs import labelled_accuracy

        probe = labelled_accuracy(c.project, c.domain.slug, clip)
    if weights is not None and not trains_text(model):
        map_weights(model, text_parameters(model), weights)
    # Needed only when weights are interpolated with the base.
    start = {} if training.interpolation == 1 else copy_of_weights(model)
    # Of the base, not of a state that is resumed from.
    limit = max_log_scale(training.loss, model.logit_scale.item())
    encoder = ImageEncoder(model, image_tower(model, training, c.world.device), training, c.world)
    tokens = _keep_tokens(c, encoder, views)
    counts = {
        "pairs": len(c.pairs),
        "held_out_pairs": len(held_out),
        "steps": training.steps,
        "trainable_parameters": trainable,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step0_max_difference": difference,
        "prefix_kept": tokens is not None,
        **device_counts(c.world.device),
        "precision": training.precision,
        "processes": c.world.size,
    }
    return Preparation(
        training,
        encoder,
        texts,
        views,
        batches,
        held_out,
        tokens,
        probe,
        limit,
        start,
        base_names,
        counts,
    )


def _views(c: Customization, clip: Clip) -> Views:
    pixels = Pixels(clip.preprocess)
    kind = c.training.augmentation
    augment = None if kind == "none" else augmentation(kind, pixels, clip.preprocess_cfg)
    return Views(c.pairs, pixels, augment, c.training.seed)


def _settled(c: Customization, pairs: int, batch_size: int) -> TrainingConfig:
    # All processes take what the writer takes: they need not run on equal machines.
    precision = c.world.broadcast(choose_precision(c.training.precision, c.world.device))
    training = c.training.in_steps(pairs, batch_size)
    return training.model_copy(update={"precision": precision})


def _attach(
    method: ModelMethod, clip: Clip, training: TrainingConfig, images: Tensor
) -> tuple[float, int]:
    """Attach and unfreeze; return the largest change this made to the features of a few images
    (B, 3, H, W), and how many parameters train.
    """
    # All frozen on both sides: PyTorch takes another kernel where a weight wants a gradient, and
    # rounds otherwise.
    clip.model.requires_grad_(False)
    before = clip.encode_images(images)
    torch.manual_seed(training.seed)
    method.attach_to(clip, training)
    clip.model.requires_grad_(False)
    difference = float((clip.encode_images(images) - before).abs().max())
    return difference, method.set_trainable(clip.model)


def _keep_tokens(c: Customization, encoder: ImageEncoder, views: Views) -> Tensor | None:
    """Compute once what is frozen of every image, where it is the same at every step."""
    training = encoder.training
    tower = encoder.tower
    if not may_keep(training, splits=tower is None or tower.splits) or not c.world.one_machine:
        return None
    bf16 = tower is not None and training.precision == "bf16"
    fusible = tower is not None and not tower.native and training.precision != "fp16"
    return keep_tokens(
        encoder.frozen,
        views,
        max(1, training.views),
        c.scratch,
        c.world,
        torch.bfloat16 if bf16 else torch.float32,
        training.worker_count,
        encoder.model.visual if fusible and c.world.device == "cpu" else None,
    )
