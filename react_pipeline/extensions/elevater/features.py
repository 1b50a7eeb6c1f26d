"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded
once.

Does not belong here: encoding (`encoding`), measuring (`measuring`).

Files: `<data set>/<split>.npy`, unit vectors (N, D) float32, `<data set>/<split>_labels.npy`, and
`<data set>/<split>_sha256.npy` (N, 32) uint8 of the images' files.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, Scratch

from .images import LabelledImages, digests
from .protocols import load_model, read_all, require_encoder
from .readers import read_dataset
from .settings import ElevaterConfig


@dataclass(frozen=True)
class Features:
    """Features with labels, read from a published artifact.

    Attributes:
        features: Unit vectors (N, D), float32.
        labels: int64 (N,), or for a multilabel set uint8 (N, C).
        digest: Of images and labels.
        layout: Where the images were found.
    """

    features: NDArray[np.float32]
    labels: NDArray[Any]
    digest: str
    layout: str

    @classmethod
    def read(cls, artifact: Artifact, name: str, split: str) -> Self:
        """Read one split.

        Raises:
            Unavailable: If the artifact has none, with the reason.
        """
        place = f"{name}/{split}"
        if place in artifact.counts["missing"]:
            raise Unavailable(artifact.counts["missing"][place])
        features, labels = (
            np.load(artifact.file(f"{place}{end}.npy"), allow_pickle=False)
            for end in ("", "_labels")
        )
        digest = artifact.manifest["content"]["images"][place]
        return cls(features, labels, digest, artifact.counts["layouts"][place])


def publish_features(project: Project, slug: str, method: str) -> Artifact:
    """Publish the features of every configured data set's test split and, if shots are configured,
    training split.

    Splits that are not there are counted with their reason. Killed in between, what was encoded is
    not encoded again.

    Raises:
        InputError: If there is no `elevater.root`, or the method is a linear head; listing every
            split that is there and wrong, before anything is encoded; or naming an image that
            cannot be decoded.
    """
    require_encoder(project, method)
    elevater = project.config.section(ElevaterConfig)
    splits = ("test", "train") if elevater.shots else ("test",)
    places = {
        f"{name}/{split}": (name, split) for name in elevater.dataset_names for split in splits
    }

    def read(root: Path, place: tuple[str, str]) -> tuple[LabelledImages, list[str]]:
        images = read_dataset(root, *place)
        return images, digests(images.pictures)

    present, missing = read_all(elevater.root, "elevater", places, read)
    # Reasons name paths, and the location of the data is not part of the artifact's identity.
    listed = {place: images.digest(files) for place, (images, files) in present.items()}
    content = {"images": listed, "missing": sorted(missing)}
    inputs = resolve(project, "benchmark_features", method_key(slug, method), content=content)

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        from .encoding import encode

        started = time.monotonic()
        clip = cache(lambda: load_model(project, inputs.parents))
        for place, (images, files) in present.items():
            folder = scratch.folder / place
            squash = images.entry.squash
            arrays = {
                "": encode(project.config, clip(), images.pictures, folder, squash=squash),
                "_labels": images.labels,
                "_sha256": np.frombuffer(bytes.fromhex("".join(files)), np.uint8).reshape(-1, 32),
            }
            (directory / images.entry.name).mkdir(exist_ok=True)
            for end, array in arrays.items():
                np.save(directory / f"{place}{end}.npy", array)
        return {
            "of": len(elevater.dataset_names),
            "missing": missing,
            "layouts": {place: images.layout for place, (images, _) in present.items()},
            "images": sum(len(files) for _, files in present.values()),
            "datasets": sum(place.endswith("/test") for place in present),
            "seconds": round(time.monotonic() - started, 2),
        }

    return project.store.build(inputs, write)


def digests_of_test_images(artifact: Artifact) -> set[str]:
    """Return the SHA-256 of every test image's file, as hexadecimal digits."""
    names = [name for name in artifact.manifest["files"] if name.endswith("/test_sha256.npy")]
    return {
        row.tobytes().hex()
        for name in names
        for row in np.load(artifact.file(name), allow_pickle=False)
    }
