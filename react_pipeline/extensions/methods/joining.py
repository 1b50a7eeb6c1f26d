"""Joins two checkpoints: chooses the weight on held-out pairs, and writes the head that adds both
scores.

Shapes: N images, C classes, D embedding dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from react_pipeline.clip import (
    LOGIT_SCALE,
    ClassHead,
    Clip,
    device_counts,
    load_classifier,
    loaded_base,
    prompt_templates,
)
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.methods.head import class_accuracy, split_labelled, write_head
from react_pipeline.extensions.methods.head_samples import PairVectors, label_pairs
from react_pipeline.extensions.methods.joined_towers import save_joined
from react_pipeline.store import InputError
from react_pipeline.training import METRICS_FILE, Customization, TrainingLog

WEIGHTS = tuple(step / 10 for step in range(11))
"""Of the first method; the other one has the rest."""

SPREAD_OVER = 256
"""Pairs that the spread of scores is measured on where none is held out."""


class Member(NamedTuple):
    """A method's model and head, and the scores (N, C) that it gives to some pairs."""

    clip: Clip
    head: ClassHead
    scores: Tensor


def join_methods(c: Customization, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the checkpoint that adds the scores of two methods; returns counts for the manifest.

    The second method's scores are brought to the spread of the first one's.

    Raises:
        InputError: If not two methods are named.
    """
    if len(names) != 2:
        raise InputError(f"{c.inputs.key}: an ensemble joins two methods; name them in `variants`")
    began = time.monotonic()
    base = loaded_base(c.base.path, c.world.device)
    vectors = PairVectors.of(c, base)
    labels = label_pairs(base, c.pairs, vectors.captions, c.domain)
    trainings = [c.project.training(c.domain.slug, name) for name in names]
    _, held_out, near_copies = split_labelled(c, vectors, labels, trainings)
    seen = held_out if len(held_out) else torch.arange(min(SPREAD_OVER, len(c.pairs)))
    first, second = (_member(c, name, base, vectors, seen) for name in names)
    # The mean standard deviation of an image's scores.
    spreads = [float(one.scores.std(dim=1).mean()) for one in (first, second)]
    ratio = spreads[0] / spreads[1] if spreads[1] else 1.0
    class_ids = labels.class_ids[seen]
    joined = {at: at * first.scores + (1 - at) * ratio * second.scores for at in WEIGHTS}
    tried = {at: class_accuracy(joined[at], class_ids) for at in joined if len(held_out)}
    weight = best_weight(tried, len(held_out))
    _write(
        c, folder, [first, second], dict(zip(names, (weight, (1 - weight) * ratio), strict=True))
    )
    loss = float(cross_entropy(LOGIT_SCALE * joined[weight], class_ids, ignore_index=-1))
    c.observer.started(c.inputs, 0)
    seconds = time.monotonic() - began
    args = (c.observer, range(1), len(c.pairs), c.world.device, "joining")
    with TrainingLog(folder / METRICS_FILE, *args) as log:
        log.add(0, {"loss": loss}, waited=0.0, seconds=seconds)
    models = [first.clip.model, *([] if second.clip is first.clip else [second.clip.model.visual])]
    return {
        "pairs": len(c.pairs),
        "held_out_pairs": len(held_out),
        "held_out_near_copies": near_copies,
        "weight": weight,
        "weight_scores": {str(at): round(score, 6) for at, score in tried.items()},
        "trainable_parameters": 1,
        "parameters": sum(weight.numel() for model in models for weight in model.parameters()),
        "step0_max_difference": 0.0,
        "steps": 1,
        **device_counts(c.world.device),
        "seconds": round(seconds, 3),
    }


def best_weight(scores: Mapping[float, float], images: int) -> float:
    """Of the weights whose score is within a standard error of the best, the one nearest to a half:
    few held-out images do not tell such weights apart.
    """
    if not scores:
        return 0.5
    best = max(scores.values())
    error = math.sqrt(best * (1 - best) / images)
    good = (weight for weight, score in scores.items() if score >= best - error)
    return min(good, key=lambda weight: abs(weight - 0.5))


def _member(
    c: Customization, name: str, base: Clip, vectors: PairVectors, positions: Tensor
) -> Member:
    """A method, and its scores of the pairs at some positions."""
    clip, head = load_classifier(c.inputs.parents[name], c.base, c.domain, c.world.device)
    if clip is base:
        return Member(clip, head, head.scores(vectors.images[positions]))
    settings = c.project.config.embedding
    encoder = Encoder(clip, settings.precision)
    images = [
        encoder.images(torch.stack([encoder.to_tensor(c.pairs.decoded(at)) for at in part]))
        for part in positions.split(settings.batch_size)
    ]
    return Member(clip, head, head.scores(torch.cat(images)))


def _write(
    c: Customization, folder: Path, members: Sequence[Member], weights: Mapping[str, float]
) -> None:
    """The head, and the towers unless both are the base's."""
    pairs = list(zip(members, weights.values(), strict=True))
    vectors = [at * one.head.vectors for one, at in pairs]
    bias = torch.stack([at * one.head.bias.expand(len(vectors[0].T)) for one, at in pairs]).sum(0)
    if members[0].clip is members[1].clip:
        head = ClassHead(vectors[0] + vectors[1], bias)
    else:
        # Two unit vectors, joined and made a unit vector again, are each divided by sqrt(2).
        head = ClassHead(math.sqrt(2) * torch.cat(vectors), bias)
        save_joined(c.base.path, [one.clip for one in members], folder)
    record = {
        "classes": c.domain.class_names,
        "templates": prompt_templates(c.domain),
        "embed_dim": len(head.vectors),
        "of": weights,
    }
    write_head(folder, head, record)
