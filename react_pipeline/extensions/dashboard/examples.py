"""Examples and curves of a comparison's page: small pictures of retrieved pairs, losses thinned to
what a plot shows.

Does not belong here: the page (`dashboard`), which escapes captions and class names; here they are
as they came.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    """One retrieved pair: its picture as a data URI, the caption as it was collected, cosine to the
    prompt.
    """

    caption: str
    similarity: float
    picture: str


def shown_classes(classes: pd.DataFrame, limit: int = MAX_CLASSES) -> list[str]:
    """The names in a table of class and delta that gained most, then those that lost most."""
    ordered = classes.sort_values(["delta", "class"], ascending=[False, True], kind="stable")
    names = list(ordered["class"])
    half = limit // 2
    return names if len(names) <= limit else names[:half] + names[-half:]


def read_examples(retrieved: Artifact, classes: Sequence[str]) -> dict[str, list[Example]]:
    """The most similar pairs of each of `classes` that has any. Pictures that cannot be decoded
    are left out.

    Raises:
        CorruptArtifact: If the set's shards cannot be read, or are not those of its manifest.
    """
    from react_pipeline.corpus import BadImage, CollectedPairs, thumbnail

    pairs = pd.read_parquet(retrieved.file("pairs.parquet"), columns=["row", "class", "similarity"])
    pairs = pairs[pairs["class"].isin(list(classes))].sort_values(
        "similarity", ascending=False, kind="stable"
    )
    chosen = pairs.groupby("class", sort=False).head(PAIRS_PER_CLASS)
    similarities = {
        int(row): float(similarity)
        for row, similarity in zip(chosen["row"], chosen["similarity"], strict=True)
    }
    examples: dict[str, list[Example]] = {name: [] for name in classes}
    unreadable = 0
    collected = CollectedPairs(retrieved)
    for position in np.flatnonzero(np.isin(collected.rows, list(similarities))).tolist():
        try:
            pair = collected[position]
            picture = thumbnail(pair.image)
        except BadImage:
            unreadable += 1
            continue
        examples[pair.label].append(Example(pair.caption, similarities[pair.row], picture))
    if unreadable:
        logger.warning("%d pictures of %s cannot be shown", unreadable, retrieved.path)
    return {
        name: sorted(pairs, key=lambda one: -one.similarity)
        for name, pairs in examples.items()
        if pairs
    }


def read_curves(checkpoints: Mapping[str, Artifact]) -> dict[str, pd.DataFrame]:
    """Step and loss of each training, by method, thinned by averaging neighbours; one of a single
    step has no curve.
    """
    curves = {}
    for method, checkpoint in checkpoints.items():
        if "metrics.jsonl" not in checkpoint.manifest["files"]:
            continue
        text = checkpoint.file("metrics.jsonl").read_text(encoding="utf-8")
        try:
            records = [json.loads(line) for line in text.splitlines()]
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(
                f"{checkpoint.file('metrics.jsonl')}: {error}; rematerialize it"
            ) from error
        points = pd.DataFrame(records, columns=["step", "loss"]).dropna(ignore_index=True)
        if len(points) > 1:
            curves[method] = points.groupby(points.index // -(-len(points) // MAX_POINTS)).mean()
    return curves
