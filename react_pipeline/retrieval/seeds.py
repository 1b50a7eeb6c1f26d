"""Seeds: a class's own example images, which retrieval searches with (I2I) in addition to its name.

A seed is a query and is never trained on; yet pairs found by an evaluation image would be chosen by
looking at what is measured, so such a seed is refused. Shapes: S seeds, D width.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.labelled import encode_images, lines_of
from react_pipeline.project import Project, seed_path
from react_pipeline.retrieval.decontamination import EvaluationImages
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import MAX_IMAGE_BYTES, InputError, read_bounded

if TYPE_CHECKING:
    from react_pipeline.clip import Clip


def read_seeds(project: Project, slug: str) -> pd.DataFrame:
    """The seed images of a domain, in the order of its classes; paths are relative to the folder of
    the domain file.

    Returns:
        Columns class, class_id, name (as the domain file has it), path (absolute), sha256; no row
        where the settings use no seeds.

    Raises:
        InputError: Listing every file that is missing; or if seeds are to be used and a class that
            needs some has none.
    """
    settings = project.retrieval(slug)
    classes = project.domain(slug).classes if settings.uses_seeds else ()
    rows = []
    problems = []
    for class_id, entry in enumerate(classes):
        for seed in entry.seeds:
            path = seed_path(project.config.domains, seed)
            try:
                digest = hashlib.sha256(read_bounded(path, MAX_IMAGE_BYTES)).hexdigest()
            except OSError as error:
                problems.append(f"{entry.label}: {path}: {error.strerror}")
                continue
            rows.append((entry.label, class_id, seed.as_posix(), str(path), digest))
    if problems:
        raise InputError(
            f"{slug}.yaml, classes.seeds: {len(problems)} cannot be read\n{lines_of(problems)}"
        )
    if settings.uses_seeds:
        without = [entry.label for entry in classes if not entry.seeds]
        _require_enough(slug, settings, without, len(rows))
    return pd.DataFrame(rows, columns=["class", "class_id", "name", "path", "sha256"])


def encode_apart(
    project: Project, images: pd.DataFrame, evaluation: EvaluationImages, clip: Clip, where: str
) -> NDArray[np.float32]:
    """Unit vectors (S, D) of a user's own images by the encoder that retrieves, as the corpus'
    images were encoded. They must show no evaluation image.

    Args:
        images: With columns path and sha256.
        where: File and field that name them.

    Raises:
        InputError: If one is an evaluation image, by its bytes or nearly; or is not an image.
    """
    same = images.loc[evaluation.holds(images["sha256"]), "path"]
    refused = [f"{path} (the same file)" for path in same]
    vectors = encode_images(project.config, clip, images)
    if not refused:
        similarity = evaluation.similarity(vectors)
        is_near = similarity >= evaluation.near
        near = zip(images.loc[is_near, "path"], similarity[is_near], strict=True)
        refused = [f"{path} (cosine {cosine:.3f} with one)" for path, cosine in near]
    if refused:
        raise InputError(
            f"{where}: {len(refused)} of these show evaluation images, which nothing may be chosen "
            f"by or trained on; take other images\n{lines_of(refused)}"
        )
    return vectors


def _require_enough(slug: str, settings: RetrievalConfig, without: list[str], seeds: int) -> None:
    by_seeds = settings.filters and settings.filter_by == "seeds"
    if by_seeds and without:
        raise InputError(
            f"{slug}.yaml: `filter_by: seeds` compares every pair with the seeds of its class, and "
            f"{len(without)} classes have none: {', '.join(without[:20])}; give them `seeds`, or "
            "use `filter_by: prompts`"
        )
    if not seeds:
        raise InputError(
            f"{slug}.yaml: `modes` has i2i, and no class has `seeds`: give some, such as "
            "{name: cat, seeds: [seeds/cat.jpg]}, or leave i2i out"
        )
