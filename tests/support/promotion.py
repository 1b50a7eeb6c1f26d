"""Results made to measure: published `domain_results` with chosen predictions, and all that they
are made from.

Everything before a result is a stand-in with the right configuration and parents, so that the
lineage calls it fresh; the results themselves have the files that the real step writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from react_pipeline.corpus import collect_pairs
from react_pipeline.evaluation.domain_results import (
    EVALUATOR_VERSION,
    EvalResult,
    score,
    write_classes,
    write_result,
)
from react_pipeline.evaluation.metrics import Scores
from react_pipeline.lineage import fresh_or_none, parents_of, resolve
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from support.drawings import encode

IMAGES = 200
COSTS = {"pairs": 6, "trainable_parameters": 1_000, "seconds": 2.5, "steps": 4, "images": 1}


def outcomes(right: int, *, first: int = 0) -> np.ndarray[Any, Any]:
    """Which of the images a method gets right: `right` of them, from the image `first` on."""
    correct = np.zeros(IMAGES, dtype=bool)
    correct[(np.arange(right) + first) % IMAGES] = True
    return correct


def stand_in(project: Project, stage: str, key: str, content: Any = None) -> Artifact:
    """A published artifact of a stage with small files; what it is made from is made if it is not
    there.
    """
    make_parents(project, stage, key)
    inputs = resolve(project, stage, key, content=content)

    def write(directory: Path, _: object) -> dict[str, Any]:
        (directory / "open_clip_model.safetensors").write_bytes(inputs.fingerprint.encode())
        if stage == "customized_checkpoint":
            records = [{"step": n, "time_ms": 1_000 + n, "loss": 1 / (1 + n)} for n in range(4)]
            lines = (json.dumps(record) + "\n" for record in records)
            (directory / "metrics.jsonl").write_text("".join(lines))
        return COSTS

    return project.store.build(inputs, write)


def make_parents(project: Project, stage: str, key: str) -> None:
    """Stand-ins for what an artifact is made from, where it is not there."""
    for name, parent in parents_of(project, stage, key).values():
        if fresh_or_none(project, name, parent) is None:
            stand_in(project, name, parent)


def checkpoint(project: Project, slug: str, method: str, seed: int = 0) -> Artifact:
    """A trained model; another seed is another model."""
    return stand_in(project, "customized_checkpoint", f"{slug}/{method}", content={"seed": seed})


def evaluation_set(project: Project, slug: str, version: int) -> Artifact:
    """Other evaluation images of the domain."""
    return stand_in(project, "evaluation_set", slug, content={"version": version})


def result(
    project: Project,
    slug: str,
    method: str,
    correct: Sequence[bool] | np.ndarray[Any, Any] | None,
    *,
    seed: int = 0,
    evaluator_version: str = EVALUATOR_VERSION,
) -> Artifact:
    """The current result of a method: image by image right or wrong; None: unavailable."""
    key = f"{slug}/{method}"
    if method != "base":
        checkpoint(project, slug, method, seed)
    make_parents(project, "domain_results", key)
    right = None if correct is None else list(map(int, correct))
    inputs = resolve(project, "domain_results", key, content={"right": right})
    model = inputs.parents["base_checkpoint" if method == "base" else "customized_checkpoint"]
    names = project.domain(slug).class_names
    about: dict[str, Any] = {
        "dataset": "none" if correct is None else f"drawn {slug}",
        "domain": slug,
        "method": method,
        "evaluator_version": evaluator_version,
        "checkpoint_fingerprint": model.fingerprint,
        "evaluation_set_fingerprint": inputs.parents["evaluation_set"].fingerprint,
        "n_classes": len(names),
    }
    return project.store.build(
        inputs, lambda directory, _: write_measured(directory, about, names, correct)
    )


def measure(project: Project, method: str, right: int | None, **options: Any) -> Artifact:
    """The result of a method on `shapes`: so many images right; None: unavailable."""
    correct = None if right is None else outcomes(right)
    return result(project, "shapes", method, correct, **options)


def write_measured(
    directory: Path,
    about: Mapping[str, Any],
    names: Sequence[str],
    correct: Sequence[bool] | np.ndarray[Any, Any] | None,
) -> dict[str, Any]:
    """Write what is measured of a model on images of these classes; returns the counts."""
    if correct is None:
        write_result(directory, EvalResult(**about, unavailable="no images"))
        return {"unavailable": "no images"}
    class_ids = np.arange(len(correct)) % len(names)
    first = np.where(correct, class_ids, (class_ids + 1) % len(names))
    ranked = np.stack([first, (first + 2) % len(names)], axis=1)
    logits = np.eye(len(names), dtype=np.float32)[first]
    scores = Scores(ranked, class_ids, list(names), logits)
    measured = EvalResult(**about, **score(scores))
    table = {
        "image": [f"{number:06d}.png" for number in range(len(correct))],
        "class_id": class_ids,
        "predicted": ranked.tolist(),
        "probability": 0.5,
    }
    pd.DataFrame(table).to_parquet(directory / "predictions.parquet", index=False)
    write_result(directory, measured)
    write_classes(directory, scores)
    named = {"top1", "top5", "mean_per_class", "n", "n_classes"}
    return {**measured.model_dump(include=named), "seconds": 0.5}


def candidates(promotion: Artifact) -> dict[str, list[str]]:
    """The cells of each candidate in the table of a verdict, by method."""
    lines = promotion.file("table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return {method: cells for method, *cells in rows[2:]}


def publish_results(
    project: Project,
    slug: str,
    answers: Mapping[str, Sequence[bool]],
    *,
    captions: Sequence[str] = ("a pair",),
) -> dict[str, Artifact]:
    """Publish `domain_results` of these methods and all before them.

    Args:
        project: A pipeline; its corpus and encoder need not exist.
        slug: The domain.
        answers: For each method, whether it names each image right; image i is of class i modulo
            the classes.
        captions: Of the retrieved pairs of each class.
    """
    evaluation_set(project, slug, version=1)
    if [*answers] != ["base"]:
        for stage in ("retrieved_set", "control_set"):
            _publish_pairs(project, stage, slug, captions)
    return {method: result(project, slug, method, right) for method, right in answers.items()}


def _publish_pairs(project: Project, stage: str, slug: str, captions: Sequence[str]) -> None:
    names = project.domain(slug).class_names
    pairs = pd.DataFrame(product(names, captions), columns=["label", "caption"])
    pairs["row"] = pairs.index

    def write(directory: Path, _: object) -> dict[str, Any]:
        table = pairs.rename(columns={"label": "class"}).assign(similarity=1 - pairs["row"] / 100)
        table.drop(columns="caption").to_parquet(directory / "pairs.parquet")
        images = (
            (pair, encode(Image.new("RGB", (8, 8), (pair.row % 256, 80, 80))))
            for pair in pairs.itertuples()
        )
        collect_pairs(images, directory / "shards", 1_000, len(pairs))
        return {"pairs": len(pairs)}

    make_parents(project, stage, slug)
    project.store.build(resolve(project, stage, slug), write)
