"""Decontamination: whose labelled images are kept out of training pairs, and the search for any that slipped in.

Belongs here: the union of the evaluation sets a domain must not be trained on, and the check of a published set. Does
not belong here: comparing with one set (`duplicates`), dropping pairs (`ranking`).

By default only a domain's own set is kept out, since a model customized for one domain is not measured on another's.
With `decontaminate: all` the sets of all domains count, by hash and by embedding, and the test images of ELEVATER's
data sets and of detection and segmentation by hash: their files are read for it. Whatever is published later makes the
pairs stale (`lineage`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from react_pipeline.corpus import CollectedPairs
from react_pipeline.labelled import Unavailable, dense_digests, read_dataset, read_images
from react_pipeline.pipeline import ALL
from react_pipeline.project import Project, other_evaluation_sets
from react_pipeline.retrieval.duplicates import EvaluationImages
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from react_pipeline.clip import Clip


@dataclass(frozen=True)
class KeptOut:
    """What must not be trained on.

    Attributes:
        sets: Number of images by set: a domain's slug, `elevater/<data set>`, or `dense/<set>`.
    """

    images: EvaluationImages
    sets: Mapping[str, int]


@dataclass(frozen=True)
class Leaks:
    """How many pairs of a published set show an evaluation image: byte for byte, and (others) nearly."""

    same: int
    near: int
    compared: int


def kept_out(project: Project, slug: str, own: Artifact, clip: Clip, scope: str) -> KeptOut:
    """The images that a domain must not be trained on.

    Args:
        scope: `own` or `all`, as in `RetrievalConfig.decontaminate`.

    Raises:
        InputError: If a listed image is gone or has changed.
    """
    images = EvaluationImages.load(project, slug, own, clip)
    sets = {slug: len(images.vectors)}
    if scope == "all":
        for other in other_evaluation_sets(project, slug):
            table = read_images(project.store.current("evaluation_set", other))
            images = images.joined(EvaluationImages.of_table(project, slug, table, clip))
            sets[other] = len(table)
        for name, digests in benchmark_digests(project, slug).items():
            nothing = np.zeros((0, images.vectors.shape[1]), np.float32)
            images = images.joined(EvaluationImages(digests, nothing, images.near))
            sets[name] = len(digests)
    return KeptOut(images, sets)


def benchmark_digests(project: Project, slug: str) -> dict[str, frozenset[str]]:
    """SHA-256 of the files that the benchmark and detection and segmentation measure on, by group and data set."""
    groups = {"elevater": elevater_digests(project), "dense": dense_digests(project, slug)}
    return {f"{group}/{name}": digests for group, sets in groups.items() for name, digests in sets.items()}


def elevater_digests(project: Project) -> dict[str, frozenset[str]]:
    """SHA-256 of the files of the test images, by data set; only data sets that are there."""
    elevater = project.config.elevater
    if elevater.root is None or not elevater.root.is_dir():
        return {}
    digests = {}
    for name in elevater.dataset_names:
        try:
            images = read_dataset(elevater.root, name, "test", warn=False)
        except Unavailable:
            continue
        with ThreadPoolExecutor(4) as pool:
            read = pool.map(lambda position, images=images: hashlib.sha256(images.read(position)), range(len(images)))
            digests[name] = frozenset(digest.hexdigest() for digest in read)
    return digests


def leaked_images(project: Project, stage: str, slug: str) -> Leaks:
    """Look for evaluation images in a published retrieved or control set, independent of what retrieval recorded.

    The images in the training shards are hashed again; the vectors are those of `corpus_embeddings`, compared with
    evaluation images that are encoded again.

    Raises:
        MissingArtifact: If the set, or what it was made from, is not there.
        CorruptArtifact: If the set cannot be read.
    """
    artifact, own = project.store.current(stage, slug), project.store.current("evaluation_set", slug)
    config = artifact.manifest["config"]
    scope = "all" if "evaluation_sets" in config else "own"
    near = float(config["near_duplicate_similarity"])
    read = [(pair.row, hashlib.sha256(pair.image).hexdigest()) for pair in CollectedPairs(artifact)]
    pairs = pd.DataFrame(read, columns=["row", "sha256"])
    # Where a download made images smaller, the recorded digest is that of the file as it was on the web.
    recorded = pd.read_parquet(artifact.file("pairs.parquet"), columns=["row", "image_sha256"]).set_index("row")
    pairs["on_the_web"] = pairs["row"].map(recorded["image_sha256"])
    if near > 1:
        digests = _digests(project, slug, own, scope)
        return Leaks(int(pairs[["sha256", "on_the_web"]].isin(digests).any(axis=1).sum()), 0, len(digests))
    from react_pipeline.clip import choose_device, loaded_base

    embeddings = project.store.open("corpus_embeddings", ALL, artifact.parents["corpus_embeddings"])
    base = project.store.open("base_checkpoint", ALL, artifact.parents["base_checkpoint"])
    clip = loaded_base(base.path, choose_device(project.config.device))
    images = kept_out(project, slug, own, clip, scope).images
    same = (images.holds(pairs["sha256"]) | images.holds(pairs["on_the_web"])).to_numpy()
    nearest = images.similarity_of_rows(embeddings, pairs["row"].to_numpy(), project.config.distributor)
    return Leaks(int(same.sum()), int((~same & (nearest >= near)).sum()), len(images.sha256))


def _digests(project: Project, slug: str, own: Artifact, scope: str) -> frozenset[str]:
    """The digests of `kept_out`, without encoding an image."""
    digests = frozenset(read_images(own)["sha256"])
    if scope == "all":
        for other in other_evaluation_sets(project, slug):
            digests |= frozenset(read_images(project.store.current("evaluation_set", other))["sha256"])
        digests = digests.union(*benchmark_digests(project, slug).values())
    return digests
