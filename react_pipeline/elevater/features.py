"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded once.

Belongs here: which splits are read, publishing, going on after a kill, and taking over what was encoded before. Does
not belong here: encoding (`encoding`), measuring (`results`).

Files: `<data set>/<split>.npy` (N, D) float32 as the image tower gives them, `<data set>/<split>_labels.npy`, and
`<data set>/<split>.json` (`SplitFeatures`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from react_pipeline.artifacts import Artifact
from react_pipeline.durable import fsync, write_atomically
from react_pipeline.elevater.images import LabelledImages, Unavailable
from react_pipeline.elevater.readers import read_dataset
from react_pipeline.elevater.table import dataset
from react_pipeline.errors import CorruptArtifact, InputError
from react_pipeline.labels import lines_of
from react_pipeline.lineage import Project, method_key, resolve
from react_pipeline.training_config import CONTROL_SUFFIX

logger = logging.getLogger(__name__)

STAGE = "benchmark_features"
NO_ROOT = "`elevater.root` is not set: give it in pipeline.yaml, and look at the data with `elevater check`"
NO_ENCODER = "a linear head is used on the base's own features, so the benchmark of its encoder is that of `base`"


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


@dataclass(frozen=True)
class Features:
    """Features with labels, read from a published artifact.

    Attributes:
        about: Of the split.
        features: (N, D) float32, not normalised.
        labels: int64 (N,), or for a multilabel set uint8 (N, C).
    """

    about: SplitFeatures
    features: NDArray[np.float32]
    labels: NDArray[Any]

    @classmethod
    def read(cls, artifact: Artifact, name: str, split: str) -> Self:
        """Read one split.

        Raises:
            Unavailable: If the artifact has none, with the reason.
            CorruptArtifact: If it is of another form.
        """
        reason = unavailable_reason(artifact, name, split)
        if reason:
            raise Unavailable(reason)
        try:
            text = artifact.file(f"{name}/{split}.json").read_text(encoding="utf-8")
            about = SplitFeatures.model_validate_json(text)
        except ValidationError as error:
            raise CorruptArtifact(
                f"{artifact.path}: {name}/{split}.json is of another form; rematerialize it"
            ) from error
        features, labels = (
            np.load(artifact.file(f"{name}/{split}{end}.npy"), allow_pickle=False) for end in ("", "_labels")
        )
        return cls(about, features, labels)


def unavailable_reason(artifact: Artifact, name: str, split: str) -> str:
    """Why there are no features of a split; "" if there are."""
    counts = artifact.counts
    reason = counts.get("unavailable") or counts["missing"].get(f"{name}/{split}", "")
    return str(reason)


def publish_features(project: Project, slug: str, method: str) -> Artifact:
    """Publish the features of every configured data set's test split and, if shots are configured, training split.

    Splits that are not there are counted with their reason. Splits whose images another published artifact of this
    stage has encoded with the same checkpoint (the base's, for another domain; the same, before a change of the
    configuration) are taken over. Killed in between, finished splits are not encoded again.

    Raises:
        InputError: Listing every data set that is there and wrong, before anything is encoded; or naming an image that
            cannot be decoded.
    """
    key = method_key(slug, method)
    elevater = project.config.elevater
    splits = ("test", "train") if elevater.shots else ("test",)
    reason = _no_features(project, method)
    found, missing = ([], {}) if reason else _read_splits(project, splits)
    content = {
        "images": {f"{images.dataset}/{images.split}": digest for images, digest in found},
        # Reasons name paths, and where the data lie is no part of what they are.
        "missing": sorted(missing),
        "unavailable": {NO_ROOT: "no root", NO_ENCODER: "no encoder"}.get(reason, "no folder" if reason else ""),
    }
    inputs = resolve(project, STAGE, key, content=content)

    def write(directory: Path) -> dict[str, Any]:
        if reason:
            return {"unavailable": reason, "images": 0}
        encoder = _Encoder(project, _checkpoint(inputs.parents), directory)
        for images, digest in found:
            encoder.publish(images, digest)
        return encoder.counts(missing)

    return project.store.build(inputs, write, resumable=True)


def has_encoder(method: str) -> bool:
    """Whether a method has an image tower of its own; a linear head uses the base's."""
    return method.removesuffix(CONTROL_SUFFIX) != "linear-head"


def _no_features(project: Project, method: str) -> str:
    root = project.config.elevater.root
    if not has_encoder(method):
        return NO_ENCODER
    if root is None:
        return NO_ROOT
    return "" if root.is_dir() else f"elevater.root: there is no folder {root}"


def _read_splits(project: Project, splits: tuple[str, ...]) -> tuple[list[tuple[LabelledImages, str]], dict[str, str]]:
    elevater = project.config.elevater
    assert elevater.root is not None  # noqa: S101 - `_no_features` has looked
    found, missing, problems = [], {}, []
    for name in elevater.dataset_names:
        for split in splits:
            try:
                images = read_dataset(elevater.root, name, split)
                found.append((images, images.digest()))
            except Unavailable as error:
                missing[f"{name}/{split}"] = error.reason
            except InputError as error:
                problems.append(f"{name}, split {split}: {error}")
    if problems:
        raise InputError(
            f"{elevater.root}: {len(problems)} splits cannot be used; mend or remove them, or leave the data sets out "
            f"of `elevater.datasets`\n{lines_of(problems)}"
        )
    return found, missing


def _checkpoint(parents: Any) -> Artifact:
    return parents.get("base_checkpoint") or parents["customized_checkpoint"]


class _Encoder:
    """Fills the staging directory; the model is loaded when the first split has to be encoded."""

    def __init__(self, project: Project, checkpoint: Artifact, directory: Path) -> None:
        self.project = project
        self.checkpoint = checkpoint
        self.directory = directory
        self.clip: Any = None
        self.splits: list[SplitFeatures] = []
        self.reused = 0
        for left in directory.rglob("*.partial"):
            left.unlink()

    def publish(self, images: LabelledImages, digest: str) -> None:
        """Put the three files of a split where they belong."""
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
        truncated = encode(
            self.clip,
            PreprocessedImages(images.read, images.locations.__getitem__, preprocess, config.corpus.max_pixels),
            len(images),
            folder / f"{images.split}.npy",
            batch_size=config.embedding.batch_size,
            workers=config.embedding.workers,
            title=f"{images.dataset} {images.split}",
        )
        np.save(folder / f"{images.split}_labels.npy", images.labels)
        return truncated

    def _take_over(self, images: LabelledImages, digest: str) -> bool:
        """Link the files of another artifact with the same checkpoint and images."""
        for artifact in self._published():
            if (artifact.manifest.get("content") or {}).get("images", {}).get(
                f"{images.dataset}/{images.split}"
            ) == digest:
                folder = self.directory / images.dataset
                folder.mkdir(exist_ok=True)
                for end in (".npy", "_labels.npy"):
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
        for end in (".npy", "_labels.npy"):
            fsync(marker.with_name(marker.stem + end))
        write_atomically(marker, text)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # Some file systems know no links.
        target.write_bytes(source.read_bytes())
