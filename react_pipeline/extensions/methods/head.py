"""Heads: a classifier fitted to what the frozen base makes of the pairs, joined with the zero-shot
head, and saved.

Does not belong here: how a head is fitted and joined (`head_method`), the samples
(`head_samples`), the form of a head on disk and its use (`clip`). Shapes: N images, C classes, D
embedding dimension.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    prompt_templates,
)
from react_pipeline.evaluation import fit_temperature
from react_pipeline.extensions.methods.head_samples import HeadSamples, PairVectors, label_pairs
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import RetrievalError, TrainingError
from react_pipeline.training import (
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


def train_head(
    method: HeadMethod, customization: Customization, clip: Clip, vectors: PairVectors
) -> dict[str, Any]:
    """Fit a head to the pairs, join it with the zero-shot head, and write both with the metrics;
    return counts for the manifest.

    Raises:
        RetrievalError: If no pair to train on has a class of the domain.
        InputError: If `interpolation: held-out` is set and no pair is held out.
        TrainingError: If loss or head stop being finite.
    """
    began = time.monotonic()
    c, pairs, domain = customization, customization.pairs, customization.domain
    every = label_pairs(clip, pairs, vectors, domain)
    trained_on, unseen = _split_labelled(c, every)
    near = c.project.retrieval(domain.slug).near_duplicate_similarity
    held_out = every.at(without_near_copies(every.images, trained_on, unseen, near))
    count = len(held_out.images)
    interpolation = _interpolation(method, c.training, count, len(pairs))
    zero_shot = ClassHead(every.zero_shot)
    samples = method.samples(every.at(trained_on), c, clip)
    trained, counts = _fit(method, samples, c)

    def accuracy(fraction: float) -> float:
        head = method.join(zero_shot, trained, fraction)
        return class_accuracy(head.scores(held_out.images), held_out.class_ids)

    # No held-out pair shows what a class without pairs loses, so a tie goes to the zero-shot head.
    tie = max if len(samples.class_ids.unique()) == len(domain.classes) else min
    fraction, scores = choose_fraction(interpolation, accuracy, method.grid, tie)
    head = method.join(zero_shot, trained, fraction)
    record = {"classes": domain.class_names, "templates": prompt_templates(domain)}
    record |= _calibrated(head, held_out, "held-out pairs") or _calibrated_again(
        method, c, clip, every, trained_on, near, fraction
    )
    assert c.staging is not None  # noqa: S101 - process 0 fits
    head.write(c.staging / HEAD_FILE)
    (c.staging / HEAD_RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    with_pairs = {*every.class_ids[trained_on].tolist()}
    numbers = trained.vectors.numel() + int(trained.bias.count_nonzero())
    return {
        "pairs": len(pairs),
        "held_out_pairs": count,
        "held_out_near_copies": len(unseen) - count,
        "unlabelled_pairs": int((every.class_ids < 0).sum()),
        "held_out_before": {"class_accuracy": accuracy(0.0)} if count else {},
        "held_out_after": {"class_accuracy": accuracy(fraction)} if count else {},
        "classes_without_pairs": [
            name for at, name in enumerate(domain.class_names) if at not in with_pairs
        ],
        "trainable_parameters": numbers,
        "parameters": sum(map(torch.numel, clip.model.parameters())) + numbers,
        "interpolation": fraction,
        "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
        **device_counts(clip.device),
        "seconds": round(time.monotonic() - began, 3),
        **counts,
    }


def _split_labelled(customization: Customization, every: HeadSamples) -> list[Tensor]:
    """Positions of the pairs to fit to, and of those to hold out, all with a class."""
    pairs, training = customization.pairs, customization.training
    sides = split_held_out(pairs, training.held_out_fraction, training.seed)
    labelled = [positions[every.class_ids[positions] >= 0] for positions in sides]
    if not len(labelled[0]):
        raise RetrievalError(
            f"{customization.domain.slug}: of {len(pairs)} pairs none to train on has a class of "
            "the domain; rematerialize `retrieved_set`"
        )
    return labelled


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
    method: HeadMethod, samples: HeadSamples, customization: Customization
) -> tuple[ClassHead, dict[str, Any]]:
    """The fitted head, and counts of its steps with the method's own."""
    training = customization.training
    training = training.in_steps(len(samples.images), training.batch_size)
    steps = range(1 if method.is_closed_form else training.steps)
    began = time.monotonic()
    with TrainingLog(customization, steps, training.batch_size, []) as log:
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


def _calibrated(head: ClassHead, unseen: HeadSamples, name: str) -> dict[str, Any]:
    """Fit the temperature of the softmax to pairs that the head was not fitted to, if there are
    enough, for when no labelled image was measured.
    """
    if len(unseen.images) < LEAST_CALIBRATED:
        return {}
    logits = (LOGIT_SCALE * head.scores(unseen.images)).numpy()
    temperature = fit_temperature(logits, unseen.class_ids.numpy())
    return {"temperature": temperature, "calibrated_on": f"{len(logits):,} {name}"}


def _calibrated_again(
    method: HeadMethod,
    customization: Customization,
    clip: Clip,
    every: HeadSamples,
    trained_on: Tensor,
    near: float,
    fraction: float,
) -> dict[str, Any]:
    """Calibrate on every tenth pair, by a second head that is fitted to the others: where too few
    pairs are held out, all of them are needed to fit the one that is published.
    """
    left_out = trained_on[::10]
    if len(left_out) < LEAST_CALIBRATED:
        return {}
    rest = trained_on[~torch.isin(trained_on, left_out)]
    unseen = every.at(without_near_copies(every.images, rest, left_out, near))
    # Its losses are those of no published head.
    silent = replace(customization, staging=None, observer=TrainingObserver())
    trained, _ = _fit(method, method.samples(every.at(rest), silent, clip), silent)
    head = method.join(ClassHead(every.zero_shot), trained, fraction)
    return _calibrated(head, unseen, "pairs left out of a second fit")
