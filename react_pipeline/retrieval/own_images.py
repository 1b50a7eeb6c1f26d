"""A user's own images: seeds, which retrieval searches with (I2I) in addition to the names, and
shots, the few labelled pictures of each class that a domain may give to train on.

A seed is never trained on; yet pairs found by an evaluation image would be chosen by looking at
what is measured. So neither may show one. Does not belong here: how labelled images are listed and
read (`labelled`). Shapes: N images, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.embedding import Vectors
from react_pipeline.labelled import encode_images, list_problems, publish_labelled_set
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, seed_path
from react_pipeline.retrieval.decontamination import KeptOut, read_kept_out
from react_pipeline.retrieval.images import load_encoder
from react_pipeline.stage import EVALUATION_SET, FEW_SHOT_SET, encoder_in
from react_pipeline.store import MAX_IMAGE_BYTES, Artifact, InputError, Inputs, read_bounded

if TYPE_CHECKING:
    from react_pipeline.clip import Clip


def read_seeds(project: Project, slug: str) -> pd.DataFrame:
    """Return the seed images of a domain, in the order of its classes; paths are relative to the
    folder of the domain file.

    Returns:
        Columns class, class_id, name (as the domain file has it), path (absolute), sha256; no row
        where the settings use no seeds.

    Raises:
        InputError: Listing every file that is missing; or if seeds are to be used and no class
            has any.
    """
    used = project.retrieval(slug).uses_seeds
    rows = []
    problems = []
    for class_id, entry in enumerate(project.domain(slug).classes if used else ()):
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
            f"{slug}.yaml, classes.seeds: {len(problems)} cannot be read\n{list_problems(problems)}"
        )
    if used and not rows:
        raise InputError(
            f"{slug}.yaml: `modes` has i2i, and no class has `seeds`: give some, such as "
            "{name: cat, seeds: [seeds/cat.jpg]}, or leave i2i out"
        )
    return pd.DataFrame(rows, columns=["class", "class_id", "name", "path", "sha256"])


def encode_apart(
    project: Project, images: pd.DataFrame, kept_out: KeptOut, clip: Clip, where: str
) -> Vectors:
    """Return unit vectors (N, D) of a user's own images by the encoder that retrieves, as the
    corpus' images were encoded. They must show no evaluation image.

    Args:
        images: With columns path and sha256.
        where: File and field that name them.

    Raises:
        InputError: If one is an evaluation image, by its bytes or nearly; or is not an image.
    """
    same = images.loc[kept_out.holds(images["sha256"]), "path"]
    refused = [f"{path} (the same file)" for path in same]
    vectors = encode_images(project.config, clip, images)
    if not refused:
        similarity = kept_out.similarity(vectors)
        is_near = similarity >= kept_out.near
        near = zip(images.loc[is_near, "path"], similarity[is_near], strict=True)
        refused = [f"{path} (cosine {cosine:.3f} with one)" for path, cosine in near]
    if refused:
        raise InputError(
            f"{where}: {len(refused)} of these show evaluation images, which nothing may be chosen "
            f"by or trained on; take other images\n{list_problems(refused)}"
        )
    return vectors


def publish_few_shot_set(project: Project, slug: str) -> Artifact:
    """Publish the `shots` of a domain, as `publish_labelled_set` publishes its evaluation set.

    Raises:
        InputError: If the domain has none; or naming each that shows an evaluation image, by its
            bytes or nearly; or as `publish_labelled_set` says.
    """
    domain = project.domain(slug)
    if domain.shots is None:
        raise InputError(f"{slug}.yaml: `shots` is missing; name a few labelled pictures a class")
    inputs = resolve(project, FEW_SHOT_SET, slug)

    def inputs_of(content: Mapping[str, Any]) -> Inputs:
        if reason := content.get("unavailable"):
            raise InputError(f"{slug}.yaml, shots: {reason}")
        return replace(inputs, content=content)

    def require_apart(images: pd.DataFrame) -> None:
        clip = load_encoder(project, inputs.parents[encoder_in(inputs.parents)])
        kept_out = read_kept_out(project, slug, inputs.parents[EVALUATION_SET], clip)
        encode_apart(project, images, kept_out, clip, f"{slug}.yaml, shots")

    return publish_labelled_set(project, domain.with_shots, inputs_of, require_apart)
