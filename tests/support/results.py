"""Published results of methods without any training: the artifacts of a whole lineage, with answers
of a test's choice.

Their manifests, fingerprints and files are those of the real steps' form, so that comparing,
averaging, reporting and tracking work on them; nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from react_pipeline.corpus import collect_pairs
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from support.drawings import encode
from support.promotion import evaluation_set, make_parents, result


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
