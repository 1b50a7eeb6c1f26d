"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded
once.

Does not belong here: encoding (`encoding`), measuring (`measuring`).

Files: `<data set>/<split>.npy` (N, D) float32 as the image tower gives them, `<data
set>/<split>_labels.npy`, `<data set>/<split>_sha256.npy` (N, 32) uint8 of the images' files, and
`<data set>/<split>.json` (`SplitFeatures`).
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from react_pipeline.extensions.protocols import (
    checkpoint_of,
    load_model,
    read_all,
    require_encoder,
)
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import STAGES, method_key
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    MissingArtifact,
    Scratch,
    link_or_copy,
)

from .images import LabelledImages
from .readers import read_dataset
from .settings import ElevaterConfig

logger = logging.getLogger(__name__)

BENCHMARK_FEATURES = "benchmark_features"
ENDS = (".npy", "_labels.npy", "_sha256.npy", ".json")
"""Ends of the names of a split's files: `<data set>/<split>` is before."""


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
    expected: int
    layout: str
    digest: str
    truncated: int
    seconds: float


@dataclass(frozen=True)
class Features:
    """Features with labels, read from a published artifact.

    Attributes:
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
        """
        place = f"{name}/{split}"
        if place in artifact.counts["missing"]:
            raise Unavailable(artifact.counts["missing"][place])
        about = SplitFeatures.model_validate_json(artifact.file(f"{place}.json").read_bytes())
        features, labels = (
            np.load(artifact.file(f"{place}{end}.npy"), allow_pickle=False)
            for end in ("", "_labels")
        )
        return cls(about, features, labels)


def publish_features(project: Project, slug: str, method: str) -> Artifact:
    """Publish the features of every configured data set's test split and, if shots are configured,
    training split.

    Splits that are not there are counted with their reason. Splits whose images another published
    artifact of this stage has encoded with the same checkpoint (the base's, for another domain; the
    same, before a change of the configuration) are taken over. Killed in between, finished splits
    are not encoded again.

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

    def read(root: Path, place: tuple[str, str]) -> tuple[LabelledImages, str]:
        images = read_dataset(root, *place)
        return images, images.digest()

    present, missing = read_all(elevater.root, "elevater", places, read)
    # Reasons name paths, and the location of the data is not part of the artifact's identity.
    digests = {place: digest for place, (_, digest) in present.items()}
    content = {"images": digests, "missing": sorted(missing)}
    inputs = resolve(project, BENCHMARK_FEATURES, method_key(slug, method), content=content)

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        writer = _Writer(project, checkpoint_of(inputs.parents))
        splits = {}
        for place, (images, digest) in present.items():
            name = place.replace("/", "--")
            record = scratch.build(name, directory, partial(writer.write, images, digest))
            splits[place] = SplitFeatures.model_validate_json(record)
        return {
            "images": sum(about.n for about in splits.values()),
            "datasets": sum(about.split == "test" for about in splits.values()),
            "of": len(elevater.dataset_names),
            "splits_taken_over": writer.taken_over,
            "truncated": {
                name: about.truncated for name, about in splits.items() if about.truncated
            },
            "incomplete": {
                name: f"{about.n} of {about.expected} images"
                for name, about in splits.items()
                if about.n != about.expected
            },
            "missing": missing,
            "seconds": round(sum(about.seconds for about in splits.values()), 2),
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


class _Writer:
    def __init__(self, project: Project, checkpoint: Artifact) -> None:
        self.project = project
        self.checkpoint = checkpoint
        self.taken_over = 0

    def write(self, images: LabelledImages, digest: str, directory: Path) -> str:
        """Write the files of a split, or link those of another artifact with the same checkpoint
        and images; return `SplitFeatures` as JSON.
        """
        place = f"{images.dataset}/{images.split}"
        for artifact in self._published():
            if artifact.manifest["content"]["images"].get(place) == digest:
                for end in ENDS:
                    link_or_copy(artifact.file(place + end), directory / (place + end))
                self.taken_over += 1
                break
        else:
            self._encode(images, digest, directory / place)
        return (directory / f"{place}.json").read_text(encoding="utf-8")

    @cached_property
    def clip(self) -> Any:
        return load_model(self.project, self.checkpoint)

    def _encode(self, images: LabelledImages, digest: str, path: Path) -> None:
        from .encoding import encode, prepared_images

        started = time.monotonic()
        config = self.project.config
        prepared = prepared_images(config, self.clip, images)
        path.parent.mkdir()
        features, labels, sha256, about = (path.with_name(path.name + end) for end in ENDS)
        title = f"{images.dataset} {images.split}"
        digests, truncated = encode(config, self.clip, prepared, features, title)
        np.save(labels, images.labels)
        np.save(sha256, digests)
        split = SplitFeatures(
            dataset=images.dataset,
            split=images.split,
            n=len(images),
            expected=images.expected,
            layout=images.layout,
            digest=digest,
            truncated=truncated,
            seconds=round(time.monotonic() - started, 2),
        )
        about.write_text(split.model_dump_json(), encoding="utf-8")

    def _published(self) -> Iterator[Artifact]:
        store = self.project.store
        for key in store.keys(BENCHMARK_FEATURES):
            try:
                artifact = store.current(BENCHMARK_FEATURES, key)
            except (CorruptArtifact, MissingArtifact) as error:
                logger.warning("not used: %s", error)
                continue
            manifest = artifact.manifest
            # An older version of the code may have encoded differently.
            same_code = manifest["code_version"] == STAGES[BENCHMARK_FEATURES].version
            if same_code and self.checkpoint.fingerprint in manifest["parents"].values():
                yield artifact
