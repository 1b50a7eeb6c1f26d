"""Writing the features of the benchmark's splits: encoding them, or taking them over from what was published before.

Belongs here: the files of one split, and resuming after a kill. Does not belong here: which splits, and the artifact
(`features`), encoding (`encoding`).
"""

import json
import logging
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from react_pipeline.labelled import LabelledImages
from react_pipeline.pipeline import STAGES
from react_pipeline.project import Project
from react_pipeline.settings import dataset
from react_pipeline.store import Artifact, CorruptArtifact, InputError, link_or_copy, seal, sealed

logger = logging.getLogger(__name__)

STAGE = "benchmark_features"
ARRAYS = (".npy", "_labels.npy", "_sha256.npy")
"""Ends of the names of a split's arrays: features, labels, SHA-256 of each image's file."""
PROGRESS = "progress"
"""Folder of the markers of finished splits, in staging alone."""
UNPROJECTED = "_unprojected.npy"
"""The same of features before the tower's last projection, where a probe with a merged projection is asked for."""


class SplitFeatures(BaseModel):
    """What is known of one split's features.

    Attributes:
        digest: Of the images and labels.
        truncated: Images whose file truncated; the decodable part is used.
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
        self.splits: list[SplitFeatures] = []
        self.reused = 0
        for left in directory.rglob("*.partial"):
            left.unlink()

    def publish(self, images: LabelledImages, digest: str) -> None:
        """Move the files of a split into place."""
        kept = sealed(self._marker(images))
        if kept is None and (kept := self._take_over(images, digest)) is None:
            started = time.monotonic()
            truncated = self._encode(images)
            kept = SplitFeatures(
                dataset=images.dataset,
                split=images.split,
                n=len(images),
                expected=images.expected,
                layout=images.layout,
                order=images.order,
                digest=digest,
                truncated=truncated,
                seconds=round(time.monotonic() - started, 2),
            ).model_dump_json()
            self._seal(images, kept)
        self.splits.append(SplitFeatures.model_validate_json(kept))

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

    @cached_property
    def clip(self) -> Any:
        """The model."""
        from react_pipeline.clip import choose_device, load

        return load(self.checkpoint.path, choose_device(self.project.config.device))

    @cached_property
    def projection(self) -> Any:
        """The tower's last projection, taken out of it, if features before it are wanted; None without either."""
        from react_pipeline.benchmark.finetune import take_projection

        if not self.project.config.elevater.probes_unprojected:
            return None
        try:
            return take_projection(self.clip.model.visual)
        except InputError as error:
            # The probes are unavailable with the same reason; everything else needs no projection.
            logger.warning("elevater.merge_projection: %s", error)
            return None

    @property
    def ends(self) -> tuple[str, ...]:
        """Ends of the names of the arrays that a split has here."""
        return ARRAYS if self.projection is None else (*ARRAYS, UNPROJECTED)

    def _encode(self, images: LabelledImages) -> int:
        from react_pipeline.labelled import PreprocessedImages, encode, preprocessing

        config = self.project.config
        folder = self.directory / images.dataset
        preprocess = preprocessing(self.clip, squash=dataset(images.dataset).squash)
        sha256, truncated = encode(
            self.clip,
            PreprocessedImages(images.read, images.locations.__getitem__, preprocess, config.corpus.max_pixels),
            len(images),
            folder / f"{images.split}.npy",
            batch_size=config.embedding.batch_size,
            workers=config.embedding.workers,
            title=f"{images.dataset} {images.split}",
            unprojected=None if self.projection is None else (folder / f"{images.split}{UNPROJECTED}", self.projection),
        )
        np.save(folder / f"{images.split}_labels.npy", images.labels)
        np.save(folder / f"{images.split}_sha256.npy", sha256)
        return truncated

    def _take_over(self, images: LabelledImages, digest: str) -> str | None:
        """Link the files of another artifact with the same checkpoint and images; what is known of them, if any is."""
        for artifact in self._published():
            split = f"{images.dataset}/{images.split}"
            encoded = (artifact.manifest.get("content") or {}).get("images", {})
            # Made without `merge_projection`, an artifact lacks an array; the images are then encoded again.
            whole = all(f"{split}{end}" in artifact.manifest["files"] for end in self.ends)
            if encoded.get(split) == digest and whole:
                folder = self.directory / images.dataset
                for end in self.ends:
                    (target := folder / f"{images.split}{end}").unlink(missing_ok=True)
                    link_or_copy(artifact.file(f"{split}{end}"), target)
                about = artifact.file(f"{split}.json").read_text(encoding="utf-8")
                self._seal(images, about)
                self.reused += 1
                return about
        return None

    def _published(self) -> Iterator[Artifact]:
        store = self.project.store
        for manifest in sorted((store.root / STAGE).glob("*/*/*/manifest.json")):
            slug, method, fingerprint = manifest.parts[-4:-1]
            try:
                recorded = json.loads(manifest.read_text(encoding="utf-8"))
                # An older version of the code may have encoded differently.
                same_code = recorded["code_version"] == STAGES[STAGE].version
                if same_code and self.checkpoint.fingerprint in recorded["parents"].values():
                    yield store.open(STAGE, f"{slug}/{method}", fingerprint)
            except (ValueError, KeyError, TypeError, OSError, RecursionError, CorruptArtifact) as error:
                logger.warning("%s: not used (%s)", manifest.parent, error)

    def _marker(self, images: LabelledImages) -> Path:
        return self.directory / PROGRESS / f"{images.dataset}--{images.split}.json"

    def _seal(self, images: LabelledImages, about: str) -> None:
        stem = self.directory / images.dataset / images.split
        stem.with_suffix(".json").write_text(about, encoding="utf-8")
        seal(self._marker(images), [stem.with_name(stem.name + end) for end in (".json", *self.ends)], about)
