"""Examples and curves of a comparison's page: small pictures of retrieved pairs, losses thinned to what a plot shows.

Belongs here: which classes and pairs are shown, reading a training's records. Does not belong here: the
page (`dashboard`). Captions and class names come from outside: they are kept as they are here and escaped there.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.store import Artifact, CorruptArtifact

logger = logging.getLogger(__name__)

MAX_CLASSES = 24
PAIRS_PER_CLASS = 4
MAX_POINTS = 240
"""Points of a curve; more are not distinguishable on a page."""


@dataclass(frozen=True)
class Example:
    """One retrieved pair: its picture as a data URI, the caption as it was collected, cosine to the prompt."""

    label: str
    caption: str
    similarity: float
    picture: str


@dataclass(frozen=True)
class Curve:
    """The loss of one training by step, thinned by averaging neighbours."""

    method: str
    steps: Sequence[float]
    losses: Sequence[float]


def shown_classes(classes: pd.DataFrame, limit: int = MAX_CLASSES) -> list[str]:
    """Classes worth a look: those that gained most, those that lost most, and others between, in this order.

    Args:
        classes: Columns class and delta, one row a class.
    """
    ordered = classes.sort_values(["delta", "class"], ascending=[False, True], kind="stable", na_position="last")
    names = list(ordered["class"])
    if len(names) <= limit:
        return names
    third = limit // 3
    between = names[third : len(names) - third]
    wanted = limit - 2 * third
    return names[:third] + between[:: max(len(between) // wanted, 1)][:wanted] + names[len(names) - third :]


def read_examples(retrieved: Artifact, classes: Sequence[str]) -> list[Example]:
    """The most similar pairs of each class, in the order of `classes`. Pictures that cannot be read are left out.

    Raises:
        CorruptArtifact: If the set's shards are not those of its manifest.
    """
    from react_pipeline.corpus import BadImage, CollectedPairs, thumbnail

    pairs = pd.read_parquet(retrieved.file("pairs.parquet"), columns=["row", "class", "similarity"])
    pairs = pairs[pairs["class"].isin(list(classes))].sort_values("similarity", ascending=False, kind="stable")
    chosen = pairs.groupby("class", sort=False).head(PAIRS_PER_CLASS)
    wanted = {int(row): float(similarity) for row, similarity in zip(chosen["row"], chosen["similarity"], strict=True)}
    found: dict[str, list[Example]] = {name: [] for name in classes}
    unreadable = 0
    collected = CollectedPairs(retrieved)
    for position in np.flatnonzero(np.isin(collected.rows, list(wanted))).tolist():
        try:
            pair = collected[position]
            picture = thumbnail(pair.image)
        except (CorruptArtifact, BadImage):
            unreadable += 1
            continue
        found[pair.label].append(Example(pair.label, pair.caption, wanted[pair.row], picture))
    if unreadable:
        logger.warning("%d pictures of %s cannot be shown", unreadable, retrieved.path)
    return [one for name in classes for one in sorted(found[name], key=lambda one: -one.similarity)]


def read_curves(checkpoints: Mapping[str, Artifact]) -> list[Curve]:
    """The loss of each training, by method; a training without records has none."""
    curves = []
    for method, checkpoint in checkpoints.items():
        if "metrics.jsonl" not in checkpoint.manifest["files"]:
            continue
        text = checkpoint.file("metrics.jsonl").read_text(encoding="utf-8")
        try:
            records: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(f"{checkpoint.file('metrics.jsonl')}: {error}; rematerialize it") from error
        points = pd.DataFrame([(r["step"], r["loss"]) for r in records if "loss" in r], columns=["step", "loss"])
        if points.empty:
            continue
        thin = points.groupby(points.index // -(-len(points) // MAX_POINTS)).mean()
        curves.append(Curve(method, thin["step"].tolist(), thin["loss"].tolist()))
    return curves
