"""Retrieval: which pairs of the corpus a domain is customized on, and as many random ones as their control.

Belongs here: searching the prompts, the random draw, and the two artifacts. Does not belong here: which hit is better
and which is dropped (`ranking`), what counts as a duplicate (`duplicates`), copying pairs out of the tars (`collect`).

Follows REACT (Liu et al. 2023, arXiv 2301.07094): every template x every name is a query of its own, k counts per
prompt, T2T searches captions and T2I images. Added to it: fusion of both modes, one class a row, no duplicates, no
evaluation images, a cap and a similarity floor.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.artifacts import Artifact
from react_pipeline.collect import LOCATION, SHARDS, collect_pairs, read_images_by_range
from react_pipeline.config import RetrievalConfig
from react_pipeline.duplicates import EvaluationImages, repeats
from react_pipeline.errors import RetrievalError
from react_pipeline.lineage import Project, resolve
from react_pipeline.prompts import class_prompts
from react_pipeline.ranking import DROP_REASONS, best_hits, class_report, mark_drops
from react_pipeline.vectors import image_vectors, read_metadata

if TYPE_CHECKING:
    from react_pipeline.model import Clip
    from react_pipeline.vectors import Side

SIDES: dict[str, Side] = {"t2t": "text", "t2i": "image"}
"""Which vectors each mode searches."""

CONTROL_SEED = 0
_PAIR_COLUMNS = [
    *("row", "class", "prompt", "mode", "similarity", "rank"),
    *("caption", "image_sha256", "evaluation_similarity"),
]
_SHEET_CLASSES, _SHEET_IMAGES = 12, 8


def retrieve_pairs(project: Project, slug: str) -> Artifact:
    """Publish the pairs of the corpus that a domain's class names find, collected into training shards.

    Starving classes are recorded in the counts (`starving`, `starving_fraction`), not refused here: the blocking check
    and `customize` refuse to train on too many of them. Similarities of T2T and T2I lie on different scales and are
    never compared with one another: a hit of an earlier mode goes before any hit of a later one.

    Files: `pairs.parquet`, `classes.parquet` (per class: prompts, candidates, kept, one column a reason of dropping,
    shortfall of the search), `shards/`, `contact_sheet.png`. `evaluation_similarity` is the cosine of an image with the
    nearest evaluation image, NaN without an evaluation set.

    Raises:
        RetrievalError: If no pair is left at all, naming the classes and why their candidates were dropped.
    """
    from react_pipeline.index import open_index

    inputs = resolve(project, "retrieved_set", slug)
    parents, domain, settings = inputs.parents, project.domain(slug), project.retrieval(slug)

    def write(directory: Path) -> dict[str, Any]:
        started = time.monotonic()
        clip = _load_base(project, parents["base_checkpoint"])
        prompts = class_prompts(domain)
        queries = clip.encode_texts(prompts["prompt"].tolist()).numpy()
        index = open_index(parents["faiss_index"], parents["base_checkpoint"].fingerprint)
        found = [index.search(SIDES[mode], queries, settings.k_per_prompt).assign(mode=mode) for mode in settings.modes]
        hits = pd.concat(found, ignore_index=True)
        hits["class_id"] = prompts["class_id"].to_numpy()[hits["query"]]
        candidates = best_hits(hits, settings).join(prompts[["class", "prompt"]], on="query")
        candidates = _described(candidates, parents["corpus_embeddings"])
        evaluation = EvaluationImages.load(project, slug, parents["evaluation_set"], clip)
        candidates["evaluation_similarity"] = evaluation.similarity(
            image_vectors(parents["corpus_embeddings"], candidates["row"])
        )
        mark_drops(candidates, evaluation, settings)
        classes = class_report(domain, prompts, hits, candidates, settings)
        pairs = candidates[candidates["dropped"] == ""].sort_values("class_id", kind="stable")
        starving = classes.loc[classes["kept"] < settings.min_per_class, "class"].tolist()
        if pairs.empty:
            raise RetrievalError(_nothing_found(slug, classes))
        classes.to_parquet(directory / "classes.parquet", index=False)
        _write_pairs(directory, pairs, parents["corpus"], project, settings)
        return {
            "pairs": len(pairs),
            "classes": int((classes["kept"] > 0).sum()),
            "starving": starving,
            "starving_fraction": len(starving) / len(classes),
            "candidates": len(candidates),
            "dropped": {reason: int(classes[reason].sum()) for reason in DROP_REASONS},
            "shortfall": int(classes["shortfall"].sum()),
            "pairs_by_mode": {mode: int((pairs["mode"] == mode).sum()) for mode in settings.modes},
            "evaluation_images": len(evaluation.vectors),
            "seconds": round(time.monotonic() - started, 2),
        }

    return project.store.build(inputs, write)


def draw_control(project: Project, slug: str) -> Artifact:
    """Publish as many pairs as the domain's retrieved set has, drawn at random from the corpus.

    Drawn uniformly, without replacement, with a fixed seed, from the distinct images of the whole corpus less the
    evaluation images. Rows of the retrieved set may be drawn: they are part of the corpus too. Captions are kept, so
    that the control differs from the retrieved set in nothing but the choice of pairs.

    Raises:
        RetrievalError: If the corpus holds nothing but evaluation images.
    """
    inputs = resolve(project, "control_set", slug)
    parents, settings = inputs.parents, project.retrieval(slug)
    wanted = parents["retrieved_set"].counts["pairs"]

    def write(directory: Path) -> dict[str, Any]:
        started = time.monotonic()
        embeddings = parents["corpus_embeddings"]
        evaluation = EvaluationImages.load(
            project, slug, parents["evaluation_set"], _load_base(project, parents["base_checkpoint"])
        )
        sha256 = read_metadata(embeddings, ["image_sha256"])["image_sha256"]
        same, repeated = evaluation.holds(sha256), repeats(sha256)
        pool = sha256.index[~(same | repeated)].to_numpy()
        order = np.random.default_rng(CONTROL_SEED).permutation(pool)
        drawn, near = _draw(order, wanted, evaluation, embeddings)
        if drawn.empty:
            raise RetrievalError(f"{slug}: every image of the corpus is an evaluation image; nothing can be drawn")
        pairs = _described(drawn, embeddings).assign(
            **{"class": "", "prompt": "", "mode": "random", "similarity": np.nan, "rank": np.arange(len(drawn))}
        )
        _write_pairs(directory, pairs, parents["corpus"], project, settings)
        return {
            "pairs": len(pairs),
            "shortfall": wanted - len(pairs),
            "dropped": {
                "evaluation_image_hash": int(same.sum()),
                "evaluation_image_near": near,
                "exact_duplicate": int((repeated & ~same).sum()),
            },
            "evaluation_images": len(evaluation.vectors),
            "seed": CONTROL_SEED,
            "seconds": round(time.monotonic() - started, 2),
        }

    return project.store.build(inputs, write)


def _draw(
    order: NDArray[np.int64], wanted: int, evaluation: EvaluationImages, embeddings: Artifact
) -> tuple[pd.DataFrame, int]:
    """The first `wanted` rows of `order` that show no evaluation image, and how many near ones were passed over."""
    parts, have, near, start = [], 0, 0, 0
    while have < wanted and start < len(order):
        rows = pd.Series(order[start : start + wanted - have], name="row")
        start += len(rows)
        similarity = evaluation.similarity(image_vectors(embeddings, rows))
        clean = ~(similarity >= evaluation.near)
        near += int((~clean).sum())
        have += int(clean.sum())
        parts.append(pd.DataFrame({"row": rows[clean], "evaluation_similarity": similarity[clean]}))
    return pd.concat(parts, ignore_index=True), near


def _load_base(project: Project, checkpoint: Artifact) -> Clip:
    from react_pipeline.model import choose_device, load

    return load(checkpoint.path, choose_device(project.config.device))


def _described(candidates: pd.DataFrame, embeddings: Artifact) -> pd.DataFrame:
    return candidates.join(read_metadata(embeddings, LOCATION), on="row")


def _write_pairs(
    directory: Path, pairs: pd.DataFrame, corpus: Artifact, project: Project, settings: RetrievalConfig
) -> None:
    from react_pipeline.corpus import shard_paths
    from react_pipeline.images import contact_sheet, decode_image

    shards = shard_paths(corpus)
    pairs[_PAIR_COLUMNS].to_parquet(directory / "pairs.parquet", index=False)
    collect_pairs(pairs, shards, directory / SHARDS, settings.shard_pairs)
    titles = pairs["class"].drop_duplicates().head(_SHEET_CLASSES)
    shown = pairs[pairs["class"].isin(titles)].groupby("class", sort=False).head(_SHEET_IMAGES)
    images = {
        pair.row: decode_image(data, project.config.corpus.max_pixels)
        for pair, data in read_images_by_range(shown, shards)
    }
    sheet = [
        (str(title) or "random pairs", [images[row] for row in rows["row"]])
        for title, rows in shown.groupby("class", sort=False)
    ]
    contact_sheet(sheet, directory / "contact_sheet.png")


def _nothing_found(slug: str, classes: pd.DataFrame) -> str:
    told = ", ".join(classes["class"].head(20)) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    reasons = ", ".join(f"{reason} {int(classes[reason].sum())}" for reason in DROP_REASONS if classes[reason].sum())
    return (
        f"{slug}: no pair is left for any class ({told}); {int(classes['candidates'].sum())} candidates were found, "
        f"dropped: {reasons or 'none'}. Lower `min_similarity`, raise `k_per_prompt`, add synonyms, or use a corpus "
        "that shows these classes"
    )
