"""The method `linear-head`: one vector per class, trained on what the frozen base makes of the
retrieved pairs.

Does not belong here: the samples (`head_samples`), the form of a head on disk and its use
(`clip.classifier`).

Source: REAL (Parashar et al. 2024, arXiv 2401.12425): a linear classifier on the features of a
class-balanced retrieved set, trained across modalities (Lin et al. 2023, arXiv 2301.06267: texts
are samples of a class as its images are) and joined with the zero-shot classifier. Different here:
classes are balanced by drawing, not by cutting them to one size. Shapes: N images, B samples of a
batch, C classes, D embedding dimension.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from react_pipeline.clip import (
    HEAD_ABOUT_FILE,
    HEAD_FILE,
    LOGIT_SCALE,
    Clip,
    prompt_templates,
    zero_shot_head,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Inputs, RetrievalError, TrainingError
from react_pipeline.training.guards import explained_out_of_memory, require_learned
from react_pipeline.training.head_samples import ClassSamples, Labels, PairVectors, label_pairs
from react_pipeline.training.held_out import split
from react_pipeline.training.interpolation import choose, require_held_out
from react_pipeline.training.log import METRICS_FILE, TrainingLog
from react_pipeline.training.observer import TrainingObserver
from react_pipeline.training.schedule import generator, learning_rate


def train_linear_head(
    clip: Clip,
    pairs: CollectedPairs,
    vectors: PairVectors,
    domain: DomainConfig,
    training: TrainingConfig,
    directory: Path,
    observer: TrainingObserver,
    inputs: Inputs,
) -> dict[str, Any]:
    """Train a linear head on the pairs and write it with its metrics; the base stays as it is.

    Samples are the vectors of images and captions, with the pair's class as label, and those of all
    prompts of each class. A batch is half images, half texts, every class equally likely. The head
    starts as the zero-shot head; logits are 100 x cosine. Classes without a pair keep the zero-shot
    column; their prompts are samples that the other columns learn to stay away from. Afterwards the
    trained head is joined with the zero-shot head (`training.interpolation`).

    A control's pairs have no class. Each gets the class whose prompt is nearest to its caption: the
    text-to-text match that retrieval makes, without its selection. In a retrieved set a pair whose
    class is not the domain's is left out and counted (`unlabelled_pairs`).

    Files: `head.safetensors` and `head.json` (see `clip.classifier`), `metrics.jsonl` (a line a
    step).

    Returns:
        Counts for the manifest. `held_out_before` and `held_out_after` hold the `class_accuracy` of
        the held-out pairs'
        images with the zero-shot head and with the joined one; they are empty where no pair is held
        out.

    Raises:
        RetrievalError: If no pair to train on has a class of the domain.
        InputError: If the interpolation is to be chosen and no pair is held out.
        TrainingError: If loss or head stop being finite.
    """
    began = time.monotonic()
    zero_shot = zero_shot_head(clip, domain.prompt_names, prompt_templates(domain)).contiguous()
    labels = label_pairs(clip, pairs, vectors.captions, domain)
    trained_on, held_out = (
        positions[labels.class_ids[positions] >= 0]
        for positions in split(pairs, training.held_out_fraction, training.seed)
    )
    if not len(trained_on):
        raise RetrievalError(
            f"{domain.slug}: of {len(pairs)} pairs none to train on has a class of the domain; "
            "rematerialize `retrieved_set`"
        )
    require_held_out(training.interpolation, len(held_out), len(pairs))
    training = training.in_steps(len(trained_on), training.batch_size)
    batches = _Batches(vectors, labels, trained_on, zero_shot.shape[1], training)
    head = Head(zero_shot, batches.images.counts > 0, training)
    step0_max_difference = float((head.vectors() - zero_shot).abs().max())
    observer.started(inputs, 0)
    steps = range(training.steps)  # a head is trained in seconds and starts again after a kill
    metrics = directory / METRICS_FILE
    with TrainingLog(
        metrics, observer, steps, training.batch_size, clip.device, "training linear-head"
    ) as log:
        for step in steps:
            started = time.monotonic()
            with explained_out_of_memory(
                f"with batch_size {training.batch_size}", "lower customization batch_size"
            ):
                values = head.step(step, *batches.draw(step))
            log.add(step, values, waited=0.0, seconds=time.monotonic() - started)
        losses = log.losses()
    trained = head.vectors()
    require_learned(losses)
    if not torch.isfinite(trained).all():
        raise TrainingError(
            "the trained head is not finite; lower learning_rate. Nothing was published"
        )

    def accuracy(fraction: float) -> float:
        head = join(zero_shot, trained, fraction)
        return class_accuracy(vectors.images[held_out], labels.class_ids[held_out], head)

    fraction, scores = choose(training.interpolation, accuracy)
    save_file(
        {"head": join(zero_shot, trained, fraction), "trained": trained}, directory / HEAD_FILE
    )
    about = _about(domain, batches.images.counts, labels, clip.dimension, fraction, scores)
    (directory / HEAD_ABOUT_FILE).write_text(
        json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return {
        "pairs": len(pairs),
        "held_out_pairs": len(held_out),
        "unlabelled_pairs": int((labels.class_ids < 0).sum()),
        "classes_without_pairs": [
            sample["class"] for sample in about["samples"] if not sample["pairs"]
        ],
        "steps": training.steps,
        "seconds": round(time.monotonic() - began, 3),
        "trainable_parameters": trained.numel(),
        "parameters": sum(parameter.numel() for parameter in clip.model.parameters())
        + trained.numel(),
        "first_loss": losses[0],
        "final_loss": losses[-1],
        "held_out_before": {"class_accuracy": accuracy(0.0)} if len(held_out) else {},
        "held_out_after": {"class_accuracy": accuracy(fraction)} if len(held_out) else {},
        "interpolation": fraction,
        "interpolation_scores": about["scores"],
        "step0_max_difference": step0_max_difference,
        "device": clip.device,
    }


def join(zero_shot: Tensor, trained: Tensor, fraction: float) -> Tensor:
    """Unit columns (D, C) on the way from the zero-shot head (0) to the trained one (1).

    Both ends are exact, and so is a column in which the two heads are the same.
    """
    if fraction in (0, 1):
        return (trained if fraction else zero_shot).clone()
    joined = functional.normalize(torch.lerp(zero_shot, trained, fraction), dim=0)
    return torch.where((zero_shot == trained).all(dim=0), zero_shot, joined)


def class_accuracy(images: Tensor, class_ids: Tensor, head: Tensor) -> float:
    """Mean, over the classes that have images, of the fraction of their images that is right.

    Of unit vectors (N, D), one at least, their true classes (N,), and class vectors (D, C).
    """
    right = ((images @ head).argmax(dim=1) == class_ids).double()
    counts = torch.bincount(class_ids, minlength=head.shape[1])
    hits = torch.bincount(class_ids, weights=right, minlength=head.shape[1])
    return float((hits[counts > 0] / counts[counts > 0]).mean())


class _Batches:
    """What each step trains on: half images, half texts, a function of the step alone."""

    def __init__(
        self,
        vectors: PairVectors,
        labels: Labels,
        positions: Tensor,
        n_classes: int,
        training: TrainingConfig,
    ) -> None:
        """Take images and captions at some positions, and all prompts."""
        class_ids = labels.class_ids[positions]
        self.images = ClassSamples(vectors.images[positions], class_ids, n_classes)
        texts = torch.cat([vectors.captions[positions], labels.prompts])
        self._texts = ClassSamples(texts, torch.cat([class_ids, labels.prompt_ids]), n_classes)
        self._batch_size, self._seed = training.batch_size, training.seed

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Vectors (B, D) and class ids (B,)."""
        rng, of_images = generator(self._seed, 5, step), self._batch_size // 2
        drawn = [
            self.images.draw(of_images, rng),
            self._texts.draw(self._batch_size - of_images, rng),
        ]
        vectors, class_ids = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return vectors, class_ids


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


def _about(
    domain: DomainConfig,
    pairs: Tensor,
    labels: Labels,
    dimension: int,
    fraction: float,
    scores: Mapping[float, float],
) -> dict[str, Any]:
    prompts = torch.bincount(labels.prompt_ids, minlength=len(domain.class_names))
    samples = zip(domain.class_names, pairs.tolist(), prompts.tolist(), strict=True)
    return {
        "classes": domain.class_names,
        "templates": prompt_templates(domain),
        "embed_dim": dimension,
        "interpolation": fraction,
        "scores": {str(tried): round(score, 6) for tried, score in scores.items()},
        "labels": labels.source,
        "samples": [
            {"class": name, "pairs": images, "prompts": prompted}
            for name, images, prompted in samples
        ],
    }
