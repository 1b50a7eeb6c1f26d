"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded once.

Belongs here: which splits are read, publishing, reading again. Does not belong here: the files of a split
(`feature_files`), measuring (`results`).

Files: `<data set>/<split>.npy` (N, D) float32 as the image tower gives them, `<data set>/<split>_labels.npy`,
`<data set>/<split>_sha256.npy` (N, 32) uint8 of the images' files, and `<data set>/<split>.json` (`SplitFeatures`);
`<data set>/<split>_unprojected.npy` (N, W) where a linear probe with a merged projection is asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from react_pipeline.benchmark.feature_files import STAGE, UNPROJECTED, FeatureWriter, SplitFeatures
from react_pipeline.benchmark.inputs import PROGRESS, checkpoint_of, read_all, require_encoder
from react_pipeline.labelled import LabelledImages, Unavailable, read_dataset
from react_pipeline.lineage import resolve
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.store import Artifact, remove_scratch


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
        """
        place = f"{name}/{split}"
        if place in artifact.counts["missing"]:
            raise Unavailable(artifact.counts["missing"][place])
        about = SplitFeatures.model_validate_json(artifact.file(f"{place}.json").read_text(encoding="utf-8"))
        features, labels = (np.load(artifact.file(f"{place}{end}.npy"), allow_pickle=False) for end in ("", "_labels"))
        # Most readers want the others, so the file stays where it is until rows of it are asked for.
        unprojected = None
        if (before := f"{place}{UNPROJECTED}") in artifact.manifest["files"]:
            unprojected = np.load(artifact.file(before), mmap_mode="c", allow_pickle=False)
        return cls(about, features, labels, unprojected)


def publish_features(project: Project, slug: str, method: str) -> Artifact:
    """Publish the features of every configured data set's test split and, if shots are configured, training split.

    Splits that are not there are counted with their reason. Splits whose images another published artifact of this
    stage has encoded with the same checkpoint (the base's, for another domain; the same, before a change of the
    configuration) are taken over. Killed in between, finished splits are not encoded again.

    Raises:
        InputError: If there is no `elevater.root`, or the method is a linear head; listing every split that is there
            and wrong, before anything is encoded; or naming an image that cannot be decoded.
    """
    require_encoder(method)
    elevater = project.config.elevater

    splits = ("test", "train") if elevater.shots else ("test",)
    places = {f"{name}/{split}": (name, split) for name in elevater.dataset_names for split in splits}

    def read(root: Path, place: tuple[str, str]) -> tuple[LabelledImages, str]:
        images = read_dataset(root, *place)
        return images, images.digest()

    found, missing = read_all(elevater.root, "elevater", places, read)
    # Reasons name paths, and the location of the data is no part of the artifact's identity.
    digests = {place: digest for place, (_, digest) in found.items()}
    content = {"images": digests, "missing": sorted(missing), "unavailable": ""}
    inputs = resolve(project, STAGE, method_key(slug, method), content=content)

    def write(directory: Path) -> dict[str, Any]:
        writer = FeatureWriter(project, checkpoint_of(inputs.parents), directory)
        for images, digest in found.values():
            writer.publish(images, digest)
        remove_scratch(directory / PROGRESS)
        return writer.counts(missing)

    return project.store.build(inputs, write, resumable=True)


def digests_of_test_images(artifact: Artifact) -> set[str]:
    """SHA-256 of every test image's file, as hexadecimal digits."""
    names = [name for name in artifact.manifest["files"] if name.endswith("/test_sha256.npy")]
    return {row.tobytes().hex() for name in names for row in np.load(artifact.file(name), allow_pickle=False)}
