"""Which training images ELEVATER uses: few-shot samples and the part that is held out to tune on.

Belongs here: choosing indices from labels. Does not belong here: images, features, training. Labels
are class ids (N,) or, for multilabel data, indicators (N, C) of 0 and 1. Nothing here depends on
anything but labels and seed.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.store import InputError

from .settings import FULL

HELD_OUT = 0.2
"""Fraction of each class that is held out."""

LARGE_DATASET, LARGE_DATASET_SHOTS = "patch-camelyon", 10_000
"""The one dataset whose search, at full shot, runs on a sample of this many images a class."""

Labels = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices into the training images. The dataset's own `val` split is never used, as in the
    benchmark.

    Attributes:
        search: Images that the trials of the search train on.
        held_out: Images that they are scored on.
    """

    search: Indices
    held_out: Indices
    final: Indices


def split_training(
    labels: Labels, *, n_classes: int, shots: int = FULL, seed: int = 0, dataset: str = ""
) -> Split:
    """Choose the images of the search and of the final training.

    The final model trains on everything that was drawn, the held-out part too. At full shot nothing
    is drawn, but `patch-camelyon` searches on 10,000 images a class.

    Args:
        shots: Images a class, see `sample_shots`; the benchmark has 5, 20, 50 and `FULL`.
        seed: Of the sample; the benchmark averages 0, 1 and 2.

    Raises:
        InputError: If fewer than two images are left to train on: batch statistics need two.
    """
    drawn = final = np.arange(len(labels))
    if shots != FULL:
        drawn = final = sample_shots(labels, shots, seed, n_classes=n_classes)
    elif dataset == LARGE_DATASET:
        drawn = sample_shots(labels, LARGE_DATASET_SHOTS, seed, n_classes=n_classes)
    search, held_out = hold_out(labels[drawn])
    if len(search) < 2 or not len(held_out):
        raise InputError(
            f"labels: of {len(drawn)} images {len(held_out)} are held out; too few are left to "
            "train on"
        )
    return Split(search=drawn[search], held_out=drawn[held_out], final=final)


def sample_shots(labels: Labels, shots: int, seed: int, *, n_classes: int) -> Indices:
    """Draw about `shots` images of every class; the indices in the order in which they were drawn.

    The rule is that of `sample_few_shot_subset` in vision-datasets 0.2, which the benchmark's
    toolkit calls. Images are visited in the order of `random.Random(seed).shuffle`, until every
    class has its shots. An image is kept if one of its classes needs examples and the sample stays
    balanced: its rarest class has at most half of the shots, or its most frequent one at most 1.5
    times the shots. Of images without a class, the first `shots` are kept. A class with fewer
    images gives all of them.
    """
    has_class = _indicators(labels, n_classes)
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)  # noqa: S311 - the benchmark's samples are defined by this generator
    drawn = np.zeros(n_classes, dtype=np.int64)
    chosen: list[int] = []
    negatives = 0
    for image in order:
        classes = np.flatnonzero(has_class[image])
        if not len(classes):
            if negatives < shots:
                negatives += 1
                chosen.append(image)
            continue
        rarest = drawn[classes].min()
        commonest = drawn[classes].max()
        if rarest < shots and (rarest <= shots / 2 or commonest <= 1.5 * shots):
            drawn[classes] += 1
            chosen.append(image)
            if drawn.min() >= shots:
                break
    return np.asarray(chosen, dtype=np.int64)


def hold_out(labels: Labels) -> tuple[Indices, Indices]:
    """Part images into (trained on, held out); both together are all of them.

    Held out are the first 20%, rounded up, of each class in the given order; nothing is drawn. Of
    multilabel images: while a class still lacks some of its 20%, the lowest such class takes its
    first free image.
    """
    if labels.ndim == 1:
        held: list[int] = []
        for class_id in np.unique(labels):
            mine = np.flatnonzero(labels == class_id)
            held += mine[: math.ceil(len(mine) * HELD_OUT)].tolist()
        held_out = np.sort(np.asarray(held, dtype=np.int64))
    else:
        held_out = _greedy_cover(labels)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _greedy_cover(labels: Labels) -> Indices:
    free = labels.astype(np.int64)
    missing = np.ceil(free.sum(axis=0) * HELD_OUT)
    held: list[int] = []
    while (missing > 0).any():
        class_id = int(np.argmax(missing > 0))
        image = int(np.argmax(free[:, class_id] > 0))
        held.append(image)
        missing -= free[image]
        free[image] = 0
    return np.asarray(held, dtype=np.int64)


def _indicators(labels: Labels, n_classes: int) -> NDArray[np.bool_]:
    return labels > 0 if labels.ndim == 2 else np.asarray(labels[:, None] == np.arange(n_classes))
