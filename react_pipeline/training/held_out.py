"""Held-out pairs: never trained on, they show whether a training goes well, and which point between
the base and the trained model is best, without using any evaluation image.

A point between the weights before and after a training often keeps what both know, and costs
nothing at inference (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903). Shapes: N pairs, D embedding
dimension.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from react_pipeline.corpus import CollectedPairs
from react_pipeline.store import InputError, TrainingError
from react_pipeline.training.schedule import generator

MAX_HELD_OUT = 2_000
"""Recall of more pairs than this would take long and show no more."""

RANKS = (1, 5, 10)
BLOCK = 1_024
"""Rows of similarities computed at once."""

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions that `interpolation: held-out` tries: from the base to the trained model."""


def split_held_out(pairs: CollectedPairs, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the pairs to train on, and of those held out; both in order.

    `fraction` of the pairs, `MAX_HELD_OUT` at the most, drawn at random from the classes that have
    more than most: a class with few pairs keeps them all, since each of them counts there.
    """
    order = torch.randperm(len(pairs), generator=generator(seed, 4)).numpy()
    classes = pd.Series(pairs.class_ids[order])
    enough = max(1.0, (1 - fraction) * len(pairs) / max(1, classes.nunique()))
    left = classes.groupby(classes).cumcount(ascending=False) + 1  # of the class, this pair too
    count = min(MAX_HELD_OUT, int(fraction * len(pairs)))
    chosen = torch.zeros(len(pairs), dtype=torch.bool)
    chosen[order[left > enough][:count]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def image_text_recall(images: Tensor, texts: Tensor, caption_ids: Tensor) -> dict[str, float]:
    """Compute recall at 1, 5 and 10 in both directions, as fractions; memory is bounded by `BLOCK`
    rows.

    A hit is any pair of the same caption: on a corpus where many images share a caption they are
    all right. Images and texts are unit vectors (N, D) in the same order; equal ids (N,) are equal
    texts.
    """
    to_text = _recall(images, texts, caption_ids)
    to_image = _recall(texts, images, caption_ids)
    names = [f"r{rank}_{way}" for way in ("image_to_text", "text_to_image") for rank in RANKS]
    return dict(zip(names, to_text + to_image, strict=True))


def _recall(queries: Tensor, gallery: Tensor, caption_ids: Tensor) -> list[float]:
    hits = torch.zeros(len(RANKS))
    for start in range(0, len(queries), BLOCK):
        similarities = queries[start : start + BLOCK] @ gallery.T
        right = caption_ids[start : start + BLOCK, None] == caption_ids[None, :]
        best = similarities.masked_fill(~right, -torch.inf).max(dim=1, keepdim=True).values
        # Only wrong ones that are nearer rank before the nearest right one, and half of those that
        # are as near: a model that maps everything to one point finds nothing. NaN counts as
        # nearer.
        nearer = ~(similarities <= best) & ~right
        as_near = (similarities == best) & ~right
        before = nearer.sum(dim=1) + as_near.sum(dim=1) / 2
        hits += torch.stack([(before < rank).sum() for rank in RANKS])
    return (hits / max(1, len(queries))).tolist()


def require_held_out(setting: float | str, held_out: int, pairs: int) -> None:
    """Refuse to choose by held-out pairs where there are none.

    Raises:
        InputError: Naming the setting.
    """
    if setting == "held-out" and not held_out:
        raise InputError(
            f"customization.interpolation: held-out needs held-out pairs, and of {pairs} pairs "
            "none is held out; raise held_out_fraction, or give interpolation a number"
        )


def choose_fraction(
    setting: float | str,
    score: Callable[[float], float],
    grid: Sequence[float] = GRID,
    tie: Callable[[Iterable[float]], float] = max,
) -> tuple[float, dict[float, float]]:
    """Return the fraction that is set, or for `held-out` the best one of `grid`, and the score of
    each that was tried.

    Args:
        score: The larger the better. Measure it on held-out pairs: chosen on the evaluation set, a
            fraction would be fitted to what it is judged by.
        tie: Which of equally good fractions wins: `max` is nearest to the training, `min` to the
            base.

    Raises:
        TrainingError: If no score is finite.
    """
    if setting != "held-out":
        return float(setting), {}
    scores = {fraction: score(fraction) for fraction in grid}
    finite = {fraction: value for fraction, value in scores.items() if math.isfinite(value)}
    if not finite:
        raise TrainingError(
            f"no interpolation of the training has a finite score ({scores}); lower learning_rate"
        )
    best = max(finite.values())
    return tie(fraction for fraction, value in finite.items() if value == best), scores
