"""Writing the features of the benchmark's splits: encoding them, or taking them over from what was published before.

Belongs here: the files of one split, and going on after a kill. Does not belong here: which splits, and the artifact
(`features`), encoding (`encoding`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from react_pipeline.artifacts import Artifact
from react_pipeline.durable import fsync, write_atomically
from react_pipeline.elevater.images import LabelledImages
from react_pipeline.elevater.table import dataset
from react_pipeline.errors import CorruptArtifact
from react_pipeline.lineage import Project

logger = logging.getLogger(__name__)

STAGE = "benchmark_features"
ARRAYS = (".npy", "_labels.npy", "_sha256.npy")
"""Ends of the names of a split's arrays: features, labels, SHA-256 of each image's file."""


class SplitFeatures(BaseModel):
    """What is known of one split's features.

    Attributes:
        dataset: Name in the benchmark.
        split: `train` or `test`.
        n: Images.
        expected: Official number of images.
        layout: Kind of copy that was read.
        order: See `images.LabelledImages`.
        digest: Of the images and labels.
        truncated: Images whose file ends too early; the part that is there counts.
        seconds: To read and encode; those of the run that did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    split: str
    n: int
    expected: int | None
    layout: str
    order: tuple[int, ...]
    digest: str
    truncated: int
    seconds: float


class FeatureWriter:
    """Fills the staging directory; the model is loaded when the first split has to be encoded."""

    def __init__(self, project: Project, checkpoint: Artifact, directory: Path) -> None:
        """Remove the parts of files that a killed build left."""
        self.project = project
        self.checkpoint = checkpoint
        self.directory = directory
        self.clip: Any = None
        self.splits: list[SplitFeatures] = []
        self.reused = 0
        for left in directory.rglob("*.partial"):
            left.unlink()

    def publish(self, images: LabelledImages, digest: str) -> None:
        """Put the files of a split where they belong."""
        marker = self.directory / images.dataset / f"{images.split}.json"
        if not marker.exists() and not self._take_over(images, digest):
            started = time.monotonic()
            truncated = self._encode(images)
            about = SplitFeatures(
                dataset=images.dataset,
                split=images.split,
                n=len(images),
                expected=images.expected,
                layout=images.layout,
                order=images.order,
                digest=digest,
                truncated=truncated,
                seconds=round(time.monotonic() - started, 2),
            )
            self._mark(marker, about.model_dump_json())
        self.splits.append(SplitFeatures.model_validate_json(marker.read_text(encoding="utf-8")))

    def counts(self, missing: dict[str, str]) -> dict[str, Any]:
        """What the manifest says of the splits; `missing` are those that are not there, with their reasons."""
        tests = [about for about in self.splits if about.split == "test"]
        return {
            "images": sum(about.n for about in self.splits),
            "datasets": len(tests),
            "of": len(self.project.config.elevater.dataset_names),
            "splits_taken_over": self.reused,
            "truncated": {
                f"{about.dataset}/{about.split}": about.truncated for about in self.splits if about.truncated
            },
            "incomplete": {
                f"{about.dataset}/{about.split}": f"{about.n} of {about.expected} images"
                for about in self.splits
                if about.n != about.expected
            },
            "missing": missing,
            "seconds": round(sum(about.seconds for about in self.splits), 2),
        }

    def _encode(self, images: LabelledImages) -> int:
        from react_pipeline.elevater.encoding import PreprocessedImages, encode, preprocessing
        from react_pipeline.model import choose_device, load

        if self.clip is None:
            self.clip = load(self.checkpoint.path, choose_device(self.project.config.device))
        config = self.project.config
        folder = self.directory / images.dataset
        preprocess = preprocessing(self.clip, squash=dataset(images.dataset).squash)
        encoded = encode(
            self.clip,
            PreprocessedImages(images.read, images.locations.__getitem__, preprocess, config.corpus.max_pixels),
            len(images),
            folder / f"{images.split}.npy",
            batch_size=config.embedding.batch_size,
            workers=config.embedding.workers,
            title=f"{images.dataset} {images.split}",
        )
        np.save(folder / f"{images.split}_labels.npy", images.labels)
        np.save(folder / f"{images.split}_sha256.npy", encoded.sha256)
        return encoded.truncated

    def _take_over(self, images: LabelledImages, digest: str) -> bool:
        """Link the files of another artifact with the same checkpoint and images."""
        for artifact in self._published():
            if (artifact.manifest.get("content") or {}).get("images", {}).get(
                f"{images.dataset}/{images.split}"
            ) == digest:
                folder = self.directory / images.dataset
                folder.mkdir(exist_ok=True)
                for end in ARRAYS:
                    _link(artifact.file(f"{images.dataset}/{images.split}{end}"), folder / f"{images.split}{end}")
                about = artifact.file(f"{images.dataset}/{images.split}.json").read_text(encoding="utf-8")
                self._mark(folder / f"{images.split}.json", about)
                self.reused += 1
                return True
        return False

    def _published(self) -> Iterator[Artifact]:
        store = self.project.store
        for manifest in sorted((store.root / STAGE).glob("*/*/*/manifest.json")):
            slug, method, fingerprint = manifest.parts[-4:-1]
            try:
                recorded = json.loads(manifest.read_text(encoding="utf-8"))
                if self.checkpoint.fingerprint in recorded["parents"].values():
                    yield store.open(STAGE, f"{slug}/{method}", fingerprint)
            except (ValueError, KeyError, OSError, CorruptArtifact) as error:
                logger.warning("%s: not used (%s)", manifest.parent, error)

    def _mark(self, marker: Path, text: str) -> None:
        # The marker vouches for the split's files, so they must be on disk before it, even if the power fails.
        for end in ARRAYS:
            fsync(marker.with_name(marker.stem + end))
        write_atomically(marker, text)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # Some file systems know no links.
        target.write_bytes(source.read_bytes())
