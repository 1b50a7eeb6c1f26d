"""Writing the features of the benchmark's splits: encoding them, or taking them over from what was published before.

Belongs here: the files of one split, and resuming after a kill. Does not belong here: which splits, and the artifact
(`features`), encoding (`react_pipeline.labelled`).
"""

import logging
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from react_pipeline.benchmark.inputs import PROGRESS, load_model
from react_pipeline.labelled import LabelledImages
from react_pipeline.pipeline import STAGES
from react_pipeline.project import Project
from react_pipeline.settings import dataset
from react_pipeline.store import (
    MANIFEST,
    Artifact,
    CorruptArtifact,
    InputError,
    MissingArtifact,
    link_or_copy,
    read_manifest,
    seal,
    sealed,
)

logger = logging.getLogger(__name__)

STAGE = "benchmark_features"
ARRAYS = (".npy", "_labels.npy", "_sha256.npy")
"""Ends of the names of a split's arrays: features, labels, SHA-256 of each image's file."""
UNPROJECTED = "_unprojected.npy"
"""The same of features before the tower's last projection, where a probe with a merged projection is asked for."""


class SplitFeatures(BaseModel):
    """What is known of one split's features.

    Attributes:
        digest: Of the images and labels.
        truncated: Images whose file is truncated; the decodable part is used.
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
        """Write the files of a split, or link those of another artifact with the same checkpoint and images."""
        marker = self.directory / PROGRESS / f"{images.dataset}--{images.split}.json"
        if (about := sealed(marker)) is None:
            about = self._take_over(images, digest) or self._encode(images, digest)
            files = [self.directory / images.dataset / f"{images.split}{end}" for end in (".json", *self.ends)]
            files[0].write_text(about, encoding="utf-8")
            seal(marker, files, about)
        self.splits.append(SplitFeatures.model_validate_json(about))

    def counts(self, missing: dict[str, str]) -> dict[str, Any]:
        """What the manifest says of the splits; `missing` are those that are not there, with their reasons."""
        by_name = {f"{about.dataset}/{about.split}": about for about in self.splits}
        return {
            "images": sum(about.n for about in self.splits),
            "datasets": sum(about.split == "test" for about in self.splits),
            "of": len(self.project.config.elevater.dataset_names),
            "splits_taken_over": self.reused,
            "truncated": {name: about.truncated for name, about in by_name.items() if about.truncated},
            "incomplete": {
                name: f"{about.n} of {about.expected} images"
                for name, about in by_name.items()
                if about.n != about.expected
            },
            "missing": missing,
            "seconds": round(sum(about.seconds for about in self.splits), 2),
        }

    @cached_property
    def clip(self) -> Any:
        """The model."""
        return load_model(self.project, self.checkpoint)

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

    def _encode(self, images: LabelledImages, digest: str) -> str:
        from react_pipeline.labelled import PreprocessedImages, encode, preprocessing

        started, config = time.monotonic(), self.project.config
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
        return SplitFeatures(
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

    def _take_over(self, images: LabelledImages, digest: str) -> str | None:
        split = f"{images.dataset}/{images.split}"
        for artifact in self._published():
            # Made without `merge_projection`, an artifact lacks an array; the images are then encoded again.
            whole = all(f"{split}{end}" in artifact.manifest["files"] for end in self.ends)
            if artifact.manifest["content"]["images"].get(split) == digest and whole:
                for end in self.ends:
                    (target := self.directory / f"{split}{end}").unlink(missing_ok=True)
                    link_or_copy(artifact.file(f"{split}{end}"), target)
                self.reused += 1
                return artifact.file(f"{split}.json").read_text(encoding="utf-8")
        return None

    def _published(self) -> Iterator[Artifact]:
        store = self.project.store
        for path in sorted((store.root / STAGE).glob(f"*/*/*/{MANIFEST}")):
            slug, method, fingerprint = path.parts[-4:-1]
            try:
                manifest = read_manifest(path.parent, STAGE)
                # An older version of the code may have encoded differently.
                same_code = manifest["code_version"] == STAGES[STAGE].version
                if same_code and self.checkpoint.fingerprint in manifest["parents"].values():
                    yield store.open(STAGE, f"{slug}/{method}", fingerprint)
            except (CorruptArtifact, MissingArtifact) as error:
                logger.warning("not used: %s", error)
