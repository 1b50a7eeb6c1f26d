"""Published results of methods without any training: the artifacts of a whole lineage, with answers
of a test's choice.

Their manifests, fingerprints and files are those of the real steps' form, so that comparing,
averaging, reporting and tracking work on them; nothing here loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from react_pipeline.corpus import collect_pairs
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store.artifacts import Artifact
from support.drawings import encode
from support.promotion import publish_result

COSTS = {"pairs": 6, "trainable_parameters": 1_000, "seconds": 2.5, "steps": 4}


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
    for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
        _publish(project, stage, "all")
    count = len(next(iter(answers.values())))
    _publish(project, "evaluation_set", slug, images=count)
    return {
        method: _publish_result(project, slug, method, list(right), captions)
        for method, right in answers.items()
    }


def _publish_result(
    project: Project, slug: str, method: str, right: list[bool], captions: Sequence[str]
) -> Artifact:
    key = method_key(slug, method)
    names = project.domain(slug).class_names
    if method != "base":
        for stage in ("retrieved_set", "control_set"):
            _publish_pairs(project, stage, slug, names, captions)
        _publish_training(project, key)
    return publish_result(project, resolve(project, "domain_results", key), right)


def _publish_pairs(
    project: Project, stage: str, slug: str, names: Sequence[str], captions: Sequence[str]
) -> None:
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

    project.store.build(resolve(project, stage, slug), write)


def _publish_training(project: Project, key: str) -> None:
    def write(directory: Path, _: object) -> dict[str, Any]:
        records = [
            {"step": step, "time_ms": 1_000 + step, "loss": 1 / (1 + step)}
            for step in range(COSTS["steps"])
        ]
        (directory / "metrics.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
        return dict(COSTS)

    project.store.build(resolve(project, "customized_checkpoint", key), write)


def _publish(project: Project, stage: str, key: str, **counts: Any) -> None:
    project.store.build(resolve(project, stage, key), lambda *_: counts)
