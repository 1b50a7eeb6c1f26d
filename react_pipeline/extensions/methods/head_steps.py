"""Steps of `linear-head`: what each is trained on, drawn so that every class counts the same.

Does not belong here: what a head is trained from (`head_samples`), how it is saved (`head`).
Shapes: N samples, B samples of a batch, C classes, D embedding dimension.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from react_pipeline.clip import LOGIT_SCALE, ClassHead
from react_pipeline.extensions.methods.head_samples import HeadSamples
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import (
    TrainingLog,
    explained_out_of_memory,
    generator,
    learning_rate,
    require_finite,
)


def take_steps(
    samples: HeadSamples, training: TrainingConfig, log: TrainingLog
) -> tuple[ClassHead, dict[str, Any]]:
    """Train a head from the zero-shot head; also returns how far it was from it at first.

    A batch is half images, half texts, every class equally likely; logits are 100 x cosine. Classes
    without a pair keep the zero-shot column; their prompts are samples that the other columns learn
    to stay away from. All is on the CPU: a head is small, and the device of the base makes no
    difference to it.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    zero_shot, batch_size = samples.zero_shot, training.batch_size
    classes = zero_shot.shape[1]
    images = ClassSamples(samples.images, samples.class_ids, classes)
    texts = ClassSamples(
        torch.cat([samples.captions, samples.prompts]),
        torch.cat([samples.class_ids, samples.prompt_ids]),
        classes,
    )
    weight = nn.Parameter(zero_shot.clone())
    optimizer = torch.optim.AdamW(
        [weight], training.learning_rate, (0.9, 0.98), 1e-6, training.weight_decay
    )

    def vectors() -> Tensor:
        return torch.where(images.counts > 0, functional.normalize(weight, dim=0), zero_shot)

    difference = float((vectors().detach() - zero_shot).abs().max())
    for step in range(training.steps):  # it takes seconds, and starts again after a kill
        started = time.monotonic()
        rate = optimizer.param_groups[0]["lr"] = learning_rate(step, training)
        with explained_out_of_memory(
            f"with batch_size {batch_size}", "lower customization batch_size"
        ):
            rng = generator(training.seed, 5, step)
            of_images = images.draw(batch_size // 2, rng)
            of_texts = texts.draw(batch_size - batch_size // 2, rng)
            batch, class_ids = map(torch.cat, zip(of_images, of_texts, strict=True))
            logits = LOGIT_SCALE * batch @ vectors()
            loss = functional.cross_entropy(logits, class_ids)
            require_finite(step, "loss", loss.item())
            (weight.grad,) = torch.autograd.grad(loss, [weight])
            optimizer.step()
        values = {
            "loss": loss.item(),
            "learning_rate": rate,
            "batch_accuracy": float((logits.argmax(dim=1) == class_ids).double().mean()),
            "gradient_norm": weight.grad.norm().item(),
        }
        log.add(step, values, waited=0.0, seconds=time.monotonic() - started)
    return ClassHead(vectors().detach()), {"step0_max_difference": difference}


class ClassSamples:
    """Labelled vectors from which every class is drawn equally often, however many each has.

    Attributes:
        counts: Samples of each class (C,).
    """

    def __init__(self, vectors: Tensor, class_ids: Tensor, n_classes: int) -> None:
        """Group vectors (N, D) by their class ids (N,)."""
        self._vectors = vectors[torch.argsort(class_ids, stable=True)]
        self.counts = torch.bincount(class_ids, minlength=n_classes)
        self._starts = self.counts.cumsum(0) - self.counts
        self._present = self.counts.nonzero().squeeze(1)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a class, then one of its samples, `count` times; returns vectors (B, D) and class
        ids (B,).
        """
        class_ids = self._present[torch.randint(len(self._present), (count,), generator=rng)]
        # In double precision the product stays below the count, so that no draw falls into the next
        # class.
        within = torch.rand(count, generator=rng, dtype=torch.float64) * self.counts[class_ids]
        return self._vectors[self._starts[class_ids] + within.long()], class_ids
