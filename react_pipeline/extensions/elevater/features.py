"""Features of the benchmark's images by one checkpoint, as an artifact: every image is encoded
once.

Does not belong here: encoding (`encoding`), measuring (`measuring`).

Files: `<data set>/<split>.npy` (N, D) float32 as the image tower gives them, `<data
set>/<split>_labels.npy`, `<data set>/<split>_sha256.npy` (N, 32) uint8 of the images' files, and
`<data set>/<split>.json` (`Features.about`).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from react_pipeline.extensions.protocols import (
    load_model,
    pick_checkpoint,
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


@dataclass(frozen=True)
class Features:
    """Features with labels, read from a published artifact.

    Attributes:
        about: Of the split: n and `expected` images, `layout`, `digest` of images and labels,
            `seconds` to encode.
        features: (N, D) float32, not normalised.
        labels: int64 (N,), or for a multilabel set uint8 (N, C).
    """

    about: Mapping[str, Any]
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
        about = json.loads(artifact.file(f"{place}.json").read_bytes())
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

    def read(root: Path, place: tuple[str, str]) -> tuple[LabelledImages, list[str]]:
        images = read_dataset(root, *place)
        return images, images.digests()

    present, missing = read_all(elevater.root, "elevater", places, read)
    # Reasons name paths, and the location of the data is not part of the artifact's identity.
    digests = {place: images.digest(files) for place, (images, files) in present.items()}
    content = {"images": digests, "missing": sorted(missing)}
    inputs = resolve(project, BENCHMARK_FEATURES, method_key(slug, method), content=content)

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        checkpoint = pick_checkpoint(inputs.parents)
        clip = cache(lambda: load_model(project, checkpoint))
        earlier = list(_encoded_with(project, checkpoint))
        splits = {}
        taken_over = 0
        for place, (images, files) in present.items():
            of_earlier = ((one, one.manifest["content"]["images"].get(place)) for one in earlier)
            source = next((one for one, seen in of_earlier if seen == digests[place]), None)
            taken_over += source is not None
            fill = partial(_write_split, project, clip, images, files, source)
            splits[place] = scratch.build(place.replace("/", "--"), directory, fill)
        counts = {"of": len(elevater.dataset_names), "splits_taken_over": taken_over}
        return {**counts, "missing": missing, **_sums(splits)}

    return project.store.build(inputs, write)


def _sums(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts over all splits, by `<data set>/<split>`."""
    return {
        "images": sum(about["n"] for about in splits.values()),
        "datasets": sum(place.endswith("/test") for place in splits),
        "seconds": round(sum(about["seconds"] for about in splits.values()), 2),
    }


def digests_of_test_images(artifact: Artifact) -> set[str]:
    """Return the SHA-256 of every test image's file, as hexadecimal digits."""
    names = [name for name in artifact.manifest["files"] if name.endswith("/test_sha256.npy")]
    return {
        row.tobytes().hex()
        for name in names
        for row in np.load(artifact.file(name), allow_pickle=False)
    }


def _encoded_with(project: Project, checkpoint: Artifact) -> Iterator[Artifact]:
    """Yield the published features of this checkpoint."""
    for key in project.store.keys(BENCHMARK_FEATURES):
        try:
            artifact = project.store.current(BENCHMARK_FEATURES, key)
        except (CorruptArtifact, MissingArtifact) as error:
            logger.warning("not used: %s", error)
            continue
        manifest = artifact.manifest
        # An older version of the code may have encoded differently.
        same_code = manifest["code_version"] == STAGES[BENCHMARK_FEATURES].version
        if same_code and checkpoint.fingerprint in manifest["parents"].values():
            yield artifact


def _write_split(
    project: Project,
    clip: Callable[[], Any],
    images: LabelledImages,
    files: list[str],
    source: Artifact | None,
    directory: Path,
) -> dict[str, Any]:
    """Encode a split, or link the files of `source`; return what is known of it."""
    from .encoding import encode, prepared_images

    started = time.monotonic()
    place = f"{images.dataset}/{images.split}"
    features, labels, sha256, about = (directory / (place + end) for end in ENDS)
    if source:
        for end in ENDS:
            link_or_copy(source.file(place + end), directory / (place + end))
    else:
        features.parent.mkdir()
        prepared = prepared_images(project.config, clip(), images)
        encode(project.config, clip(), prepared, features, place)
        np.save(labels, images.labels)
        np.save(sha256, np.frombuffer(bytes.fromhex("".join(files)), np.uint8).reshape(-1, 32))
        record = {
            **{"n": len(images), "expected": images.expected, "layout": images.layout},
            "digest": images.digest(files),
            "seconds": round(time.monotonic() - started, 2),
        }
        about.write_text(json.dumps(record), encoding="utf-8")
    known: dict[str, Any] = json.loads(about.read_bytes())
    return known
