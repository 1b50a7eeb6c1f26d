"""Heads: a classifier fitted to what the frozen base makes of the pairs, joined with the zero-shot
head, and saved.

Does not belong here: how a head is fitted and joined (`head_method`), the samples
(`head_samples`), the form of a head on disk and its use (`clip`). Shapes: N images, C classes, D
embedding dimension, P prompts.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor

from react_pipeline.clip import (
    HEAD_FILE,
    HEAD_RECORD_FILE,
    LOGIT_SCALE,
    ClassHead,
    Clip,
    device_counts,
    domain_head,
    prompt_templates,
)
from react_pipeline.evaluation import fit_temperature
from react_pipeline.extensions.methods.head_samples import Labels, PairVectors, label_pairs
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import RetrievalError, TrainingError
from react_pipeline.training import (
    METRICS_FILE,
    TrainingLog,
    TrainingObserver,
    choose_fraction,
    require_held_out,
    split_held_out,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.methods.head_method import HeadMethod
    from react_pipeline.training import Customization

LEAST_CALIBRATED = 30
"""Pairs from which a temperature is fitted."""
COMPARED_AT_ONCE = 1_024
"""Trained images that are compared with those held out at once."""


@dataclass(frozen=True)
class HeadSamples:
    """What a head learns from, all of it unit vectors as the base encodes it.

    Attributes:
        zero_shot: The zero-shot head (D, C).
        images: Of the pairs to train on (N, D).
        captions: Of these pairs (N, D).
        class_ids: Of these pairs (N,).
        prompts: Every template with every name and synonym (P, D).
        prompt_ids: Class of each prompt (P,).
    """

    zero_shot: Tensor
    images: Tensor
    captions: Tensor
    class_ids: Tensor
    prompts: Tensor
    prompt_ids: Tensor

    @classmethod
    def of(cls, zero_shot: Tensor, vectors: PairVectors, labels: Labels, positions: Tensor) -> Self:
        """The pairs at some positions, and all prompts."""
        images, captions = vectors.images[positions], vectors.captions[positions]
        class_ids = labels.class_ids[positions]
        return cls(zero_shot, images, captions, class_ids, labels.prompts, labels.prompt_ids)


def train_head(
    method: HeadMethod,
    customization: Customization,
    clip: Clip,
    vectors: PairVectors,
    directory: Path,
) -> dict[str, Any]:
    """Fit a head to the pairs, join it with the zero-shot head, and write both with the metrics;
    return counts for the manifest.

    Raises:
        RetrievalError: If no pair to train on has a class of the domain.
        InputError: If `interpolation: held-out` is set and no pair is held out.
        TrainingError: If loss or head stop being finite.
    """
    began = time.monotonic()
    domain, pairs, training = customization.domain, customization.pairs, customization.training
    zero_shot = domain_head(clip, domain).contiguous()
    labels = label_pairs(clip, pairs, vectors.captions, domain)
    trained_on, held_out, near_copies = _split_labelled(customization, vectors, labels)
    interpolation = _interpolation(method, training, len(held_out), len(pairs))
    of_pairs = HeadSamples.of(zero_shot, vectors, labels, trained_on)
    samples = method.samples(of_pairs, customization, clip)
    trained, counts = _fit(method, samples, customization, directory / METRICS_FILE, clip.device)
    images = vectors.images[held_out]

    def joined(fraction: float) -> ClassHead:
        return method.join(ClassHead(zero_shot), trained, fraction)

    def accuracy(fraction: float) -> float:
        return class_accuracy(joined(fraction).scores(images), labels.class_ids[held_out])

    # No held-out pair shows what a class without pairs loses, so a tie goes to the zero-shot head.
    tie = max if len(samples.class_ids.unique()) == len(domain.classes) else min
    fraction, scores = choose_fraction(interpolation, accuracy, method.grid, tie)
    head = joined(fraction)
    record = {"classes": domain.class_names, "templates": prompt_templates(domain)}
    record |= _calibrated(head, vectors, labels, held_out, "held-out pairs") or _calibrated_again(
        method, customization, clip, vectors, labels, trained_on, fraction
    )
    head.write(directory / HEAD_FILE)
    (directory / HEAD_RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    empty = [name for at, name in enumerate(domain.class_names) if at not in of_pairs.class_ids]
    numbers = trained.vectors.numel() + int(trained.bias.count_nonzero())
    return {
        "pairs": len(pairs),
        "held_out_pairs": len(held_out),
        "held_out_near_copies": near_copies,
        "unlabelled_pairs": int((labels.class_ids < 0).sum()),
        "held_out_before": {"class_accuracy": accuracy(0.0)} if len(held_out) else {},
        "held_out_after": {"class_accuracy": accuracy(fraction)} if len(held_out) else {},
        "classes_without_pairs": empty,
        "trainable_parameters": numbers,
        "parameters": sum(map(torch.numel, clip.model.parameters())) + numbers,
        "interpolation": fraction,
        "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
        **device_counts(clip.device),
        "seconds": round(time.monotonic() - began, 3),
        **counts,
    }


def _split_labelled(
    customization: Customization, vectors: PairVectors, labels: Labels
) -> tuple[Tensor, Tensor, int]:
    """Positions of the pairs that the head is fitted to and of those that it holds out, all with
    a class; and how many held-out ones were left out as near copies.
    """
    training = customization.training
    fitted = torch.zeros(len(customization.pairs), dtype=torch.bool)
    share = training.held_out_fraction
    fitted[split_held_out(customization.pairs, share, training.seed)[0]] = True
    has_class = labels.class_ids >= 0
    trained_on, held_out = (
        (chosen & has_class).nonzero().squeeze(1) for chosen in (fitted, ~fitted)
    )
    if not len(trained_on):
        raise RetrievalError(
            f"{customization.domain.slug}: of {len(fitted)} pairs none to train on has a class of "
            "the domain; rematerialize `retrieved_set`"
        )
    retrieval = customization.project.retrieval(customization.domain.slug)
    near = retrieval.near_duplicate_similarity
    apart = without_near_copies(vectors.images, trained_on, held_out, near)
    return trained_on, apart, len(held_out) - len(apart)


def without_near_copies(
    images: Tensor, trained_on: Tensor, held_out: Tensor, similarity: float
) -> Tensor:
    """The held-out positions whose image (N, D) has no trained image nearer than this cosine; all
    of them if none is left.

    A near copy of a trained image rewards a head that remembers its images, so the choice of the
    interpolation would go too near to the training.
    """
    queries, parts = images[held_out], trained_on.split(COMPARED_AT_ONCE)
    nearest = torch.stack([(queries @ images[part].T).amax(dim=1) for part in parts]).amax(dim=0)
    apart = held_out[nearest < similarity]
    return apart if len(apart) else held_out


def _interpolation(
    method: HeadMethod, training: TrainingConfig, held_out: int, pairs: int
) -> float | str:
    """The setting, or the method's fixed fraction where none is set and no pair is held out."""
    setting = training.interpolation
    if setting == "held-out" and not held_out and "interpolation" not in training.model_fields_set:
        return method.without_held_out
    require_held_out(setting, held_out, pairs)
    return setting


def _fit(
    method: HeadMethod,
    samples: HeadSamples,
    customization: Customization,
    metrics: Path,
    device: str,
) -> tuple[ClassHead, dict[str, Any]]:
    """The fitted head, and counts of its steps with the method's own."""
    training = customization.training
    training = training.in_steps(len(samples.images), training.batch_size)
    steps = range(1 if method.is_closed_form else training.steps)
    observer, title = customization.observer, f"training {method.name}"
    observer.started(customization.inputs, 0)
    began = time.monotonic()
    with TrainingLog(metrics, observer, steps, training.batch_size, device, title) as log:
        trained, counts = method.fit(samples, training, log)
        if method.is_closed_form:
            logits = LOGIT_SCALE * trained.scores(samples.images)
            loss = functional.cross_entropy(logits, samples.class_ids).item()
            log.add(0, {"loss": loss}, waited=0.0, seconds=time.monotonic() - began)
        losses = log.losses()
    if not all(torch.isfinite(one).all() for one in trained):
        raise TrainingError(
            "the trained head is not finite; lower learning_rate. Nothing was published"
        )
    of_steps = {"steps": len(losses), "first_loss": losses[0], "final_loss": losses[-1]}
    return trained, {**of_steps, "step0_max_difference": 0.0, **counts}


def class_accuracy(scores: Tensor, class_ids: Tensor) -> float:
    """Return the mean accuracy of the classes that have images.

    Takes scores (N, C) of one image at least, and the true classes (N,).
    """
    right = (scores.argmax(dim=1) == class_ids).double()
    counts = torch.bincount(class_ids)
    hits = torch.bincount(class_ids, weights=right)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def _calibrated(
    head: ClassHead, vectors: PairVectors, labels: Labels, unseen: Tensor, name: str
) -> dict[str, Any]:
    """Fit the temperature of the softmax to pairs that the head was not fitted to, if there are
    enough, for when no labelled image was measured.
    """
    if len(unseen) < LEAST_CALIBRATED:
        return {}
    logits = (LOGIT_SCALE * head.scores(vectors.images[unseen])).numpy()
    temperature = fit_temperature(logits, labels.class_ids[unseen].numpy())
    return {"temperature": temperature, "calibrated_on": f"{len(unseen):,} {name}"}


def _calibrated_again(
    method: HeadMethod,
    customization: Customization,
    clip: Clip,
    vectors: PairVectors,
    labels: Labels,
    trained_on: Tensor,
    fraction: float,
) -> dict[str, Any]:
    """Calibrate on every tenth pair, by a second head that is fitted to the others: where too few
    pairs are held out, all of them are needed to fit the one that is published.
    """
    left_out = trained_on[::10]
    if len(left_out) < LEAST_CALIBRATED:
        return {}
    rest = trained_on[~torch.isin(trained_on, left_out)]
    retrieval = customization.project.retrieval(customization.domain.slug)
    near = retrieval.near_duplicate_similarity
    left_out = without_near_copies(vectors.images, rest, left_out, near)
    zero_shot = domain_head(clip, customization.domain).contiguous()
    of_pairs = HeadSamples.of(zero_shot, vectors, labels, rest)
    samples = method.samples(of_pairs, customization, clip)
    training = customization.training.in_steps(
        len(samples.images), customization.training.batch_size
    )
    steps = range(training.steps)
    # Its losses are those of no published head.
    log = TrainingLog(None, TrainingObserver(), steps, training.batch_size, clip.device, "")
    with log:
        trained, _ = method.fit(samples, training, log)
    head = method.join(ClassHead(zero_shot), trained, fraction)
    return _calibrated(head, vectors, labels, left_out, "pairs left out of a second fit")
