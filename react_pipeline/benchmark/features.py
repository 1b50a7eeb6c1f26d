"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded once.

Belongs here: which splits are read, publishing, reading again. Does not belong here: the files of a split
(`feature_files`), encoding (`encoding`), measuring (`results`).

Files: `<data set>/<split>.npy` (N, D) float32 as the image tower gives them, `<data set>/<split>_labels.npy`,
`<data set>/<split>_sha256.npy` (N, 32) uint8 of the images' files, and `<data set>/<split>.json` (`SplitFeatures`);
`<data set>/<split>_unprojected.npy` (N, W) where a linear probe with a merged projection is asked for.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from react_pipeline.benchmark.feature_files import PROGRESS, STAGE, UNPROJECTED, FeatureWriter, SplitFeatures
from react_pipeline.labelled import LabelledImages, Unavailable, lines_of, read_dataset
from react_pipeline.lineage import resolve
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact, CorruptArtifact, InputError, remove_scratch

logger = logging.getLogger(__name__)

NO_ROOT = "`elevater.root` is not set: give it in pipeline.yaml, and look at the data with `elevater check`"
NO_ENCODER = "a linear head is used on the base's own features, so the benchmark of its encoder is that of `base`"


@dataclass(frozen=True)
class Features:
    """Features with labels, read from a published artifact.

    Attributes:
        features: (N, D) float32, not normalised.
        labels: int64 (N,), or for a multilabel set uint8 (N, C).
        unprojected: (N, W) float32, before the tower's last projection; None if the artifact has none.
    """

    about: SplitFeatures
    features: NDArray[np.float32]
    labels: NDArray[Any]
    unprojected: NDArray[np.float32] | None = None

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
            raise CorruptArtifact(f"{artifact.path}: {name}/{split}.json has another form; rematerialize it") from error
        features, labels = (
            np.load(artifact.file(f"{name}/{split}{end}.npy"), allow_pickle=False) for end in ("", "_labels")
        )
        before = f"{name}/{split}{UNPROJECTED}"
        # Most readers want the others, so the file stays where it is until rows of it are asked for.
        unprojected = None
        if before in artifact.manifest["files"]:
            unprojected = np.load(artifact.file(before), mmap_mode="c", allow_pickle=False)
        return cls(about, features, labels, unprojected)


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
        # Reasons name paths, and the location of the data is no part of the artifact's identity.
        "missing": sorted(missing),
        "unavailable": {NO_ROOT: "no root", NO_ENCODER: "no encoder"}.get(reason, "no folder" if reason else ""),
    }
    inputs = resolve(project, STAGE, key, content=content)

    def write(directory: Path) -> dict[str, Any]:
        if reason:
            return {"unavailable": reason, "images": 0}
        writer = FeatureWriter(project, _checkpoint(inputs.parents), directory)
        for images, digest in found:
            writer.publish(images, digest)
        remove_scratch(directory / PROGRESS)
        return writer.counts(missing)

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
    if root.is_dir():
        return ""
    reason = f"elevater.root: there is no folder {root}"
    # Unlike no root at all, this is most likely a mistake.
    logger.warning("%s; everything is unavailable", reason)
    return reason


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
            f"{elevater.root}: {len(problems)} splits cannot be used; fix or remove them, or leave the data sets out "
            f"of `elevater.datasets`\n{lines_of(problems)}"
        )
    return found, missing


def _checkpoint(parents: Any) -> Artifact:
    return parents.get("base_checkpoint") or parents["customized_checkpoint"]


def digests_of_test_images(artifact: Artifact) -> set[str]:
    """SHA-256 of every test image's file, as hexadecimal digits."""
    names = [name for name in artifact.manifest["files"] if name.endswith("/test_sha256.npy")]
    return {row.tobytes().hex() for name in names for row in np.load(artifact.file(name), allow_pickle=False)}
