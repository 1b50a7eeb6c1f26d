"""Steps of `linear-head`: what each is trained on, and the head while it is trained.

Does not belong here: what a head is trained from and how it is saved (`head`). Shapes: B samples of
a batch, C classes, D embedding dimension.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from react_pipeline.clip import LOGIT_SCALE, ClassHead
from react_pipeline.extensions.methods.head import HeadSamples
from react_pipeline.extensions.methods.head_samples import ClassSamples
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import TrainingError
from react_pipeline.training import (
    TrainingLog,
    explained_out_of_memory,
    generator,
    learning_rate,
)


def take_steps(
    samples: HeadSamples, training: TrainingConfig, log: TrainingLog
) -> tuple[ClassHead, dict[str, Any]]:
    """Train a head from the zero-shot head; also returns how far it was from it at first.

    A batch is half images, half texts, every class equally likely; logits are 100 x cosine. Classes
    without a pair keep the zero-shot column; their prompts are samples that the other columns learn
    to stay away from.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    classes, batch_size = samples.zero_shot.shape[1], training.batch_size
    images = ClassSamples(samples.images, samples.class_ids, classes)
    texts = ClassSamples(
        torch.cat([samples.captions, samples.prompts]),
        torch.cat([samples.class_ids, samples.prompt_ids]),
        classes,
    )
    head = Head(samples.zero_shot, images.counts > 0, training)
    difference = float((head.vectors() - samples.zero_shot).abs().max())
    advice = "lower customization batch_size"
    for step in range(training.steps):  # it takes seconds, and starts again after a kill
        started = time.monotonic()
        with explained_out_of_memory(f"with batch_size {batch_size}", advice):
            rng = generator(training.seed, 5, step)
            of_images = images.draw(batch_size // 2, rng)
            of_texts = texts.draw(batch_size - batch_size // 2, rng)
            batch = (torch.cat(parts) for parts in zip(of_images, of_texts, strict=True))
            values = head.step(step, *batch)
        log.add(step, values, waited=0.0, seconds=time.monotonic() - started)
    return ClassHead(head.vectors()), {"step0_max_difference": difference}


class Head:
    """The head while it is trained, on the CPU: it is small, and the device of the base makes no
    difference to it.
    """

    def __init__(self, zero_shot: Tensor, has_pairs: Tensor, training: TrainingConfig) -> None:
        """Start from the zero-shot head (D, C); columns without pairs, by `has_pairs` (C,), stay as
        they are.
        """
        self._zero_shot = zero_shot
        self._has_pairs = has_pairs
        self._training = training
        self._weight = nn.Parameter(zero_shot.clone())
        self._optimizer = torch.optim.AdamW(
            [self._weight],
            training.learning_rate,
            (0.9, 0.98),
            eps=1e-6,
            weight_decay=training.weight_decay,
        )

    def vectors(self) -> Tensor:
        """The unit class vectors (D, C) at this point of the training."""
        return self._columns().detach()

    def step(self, step: int, samples: Tensor, class_ids: Tensor) -> dict[str, float]:
        """One step on samples (B, D) with class ids (B,); returns the record of the step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self._training)
        logits = LOGIT_SCALE * samples @ self._columns()
        loss = functional.cross_entropy(logits, class_ids)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of linear-head is {loss.item()} at step {step}; lower learning_rate, or "
                "check the base. Nothing was published"
            )
        (gradient,) = torch.autograd.grad(loss, [self._weight])
        self._weight.grad = gradient
        self._optimizer.step()
        return {
            "loss": loss.item(),
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "batch_accuracy": float((logits.argmax(dim=1) == class_ids).double().mean()),
            "gradient_norm": gradient.norm().item(),
        }

    def _columns(self) -> Tensor:
        return torch.where(
            self._has_pairs, functional.normalize(self._weight, dim=0), self._zero_shot
        )
