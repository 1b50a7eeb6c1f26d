"""Labelled images: the evaluation set of a domain as an artifact, and decoding and encoding its
images.

Does not belong here: how sets are listed (`labels`, `evaluation_images`), what is measured on them
(`evaluation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import BadImage, decode_apart, decode_image, decode_what_is_there
from react_pipeline.labelled.kind import Unavailable, is_file, locate, read_image
from react_pipeline.labelled.labels import list_problems
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, PipelineConfig
from react_pipeline.stage import EVALUATION_SET
from react_pipeline.store import (
    Artifact,
    ChangedSource,
    InputError,
    Inputs,
    Scratch,
    canonical_json,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from react_pipeline.clip import Clip, Pixels
    from react_pipeline.embedding import Encoder

    Preprocess = Callable[[Image.Image], Tensor]

IMAGES = "images.parquet"
_COLUMNS = ["path", "class", "class_id", "sha256", "subject"]


def publish_evaluation_set(project: Project, slug: str) -> Artifact:
    """Publish a domain's labelled images: `publish_labelled_set`."""
    return publish_labelled_set(
        project,
        project.domain(slug),
        lambda content: resolve(project, EVALUATION_SET, slug, content=content),
    )


def publish_labelled_set(
    project: Project,
    domain: DomainConfig,
    inputs_of: Callable[[Mapping[str, Any]], Inputs],
    require: Callable[[pd.DataFrame], None] = lambda images: None,
) -> Artifact:
    """Publish labelled images: their paths, classes and digests.

    A set that is not configured, or whose path is not there, is published as `unavailable` with the
    reason, so that results can say so. Anything else that is wrong is an error, because it would
    silently change what is measured. Every file is hashed at each call; its folder is not part of
    its identity.

    Args:
        inputs_of: Inputs of the artifact, from the identity of the images.
        require: Raises if an image may not be among them; gets columns path (a location that
            `kind.read_image` reads) and sha256.

    Raises:
        InputError: Listing every unknown class, missing file, repeated row, or image that cannot be
            decoded.
    """
    images = pd.DataFrame(columns=_COLUMNS[:-1], dtype=str).astype({"class_id": "int32"})
    notes: Mapping[str, Any] = {}
    try:
        images, notes, content = _list(domain)
    except Unavailable as error:
        content = {"unavailable": error.reason}

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        evaluation = domain.evaluation
        if evaluation is None or "unavailable" in content:
            images.to_parquet(directory / IMAGES, index=False)
            return {"images": 0, **content}
        root = evaluation.root()
        locations = _locations(images, evaluation.kind, root or Path())
        _require_decodable(locations, project.config.corpus.max_pixels)
        require(images.assign(path=locations))
        class_ids = {name: position for position, name in enumerate(domain.class_names)}
        images["class_id"] = images["class"].map(class_ids).astype("int32")
        columns = [name for name in _COLUMNS if name in images]
        images[columns].to_parquet(directory / IMAGES, index=False)
        covered = set(images["class"])
        return {
            **{"images": len(images), "name": evaluation.name, "root": str(root or ""), **notes},
            "classes": len(covered),
            "classes_without_images": [name for name in class_ids if name not in covered],
        }

    return project.store.build(inputs_of(content), write)


def _list(domain: DomainConfig) -> tuple[pd.DataFrame, Mapping[str, Any], Mapping[str, Any]]:
    """Return the images that a domain lists, what to note of them, and their identity."""
    evaluation = domain.evaluation
    if evaluation is None:
        raise Unavailable(
            "no evaluation set is configured: add `evaluation` to the domain file, or use "
            "`react-pipeline judge`"
        )
    images, notes = evaluation.images(domain)
    files = map(read_image, _locations(images, evaluation.kind, evaluation.root() or Path()))
    images = images.assign(sha256=[hashlib.sha256(file).hexdigest() for file in files])
    identity = canonical_json(images.to_numpy().tolist()).encode()
    return images, notes, {"images": len(images), "sha256": hashlib.sha256(identity).hexdigest()}


def _locations(images: pd.DataFrame, kind: str, root: Path) -> list[str]:
    return [locate(kind, root, name) for name in images["path"]]


def _require_decodable(locations: Sequence[str], max_pixels: int) -> None:
    problems = []
    for location in locations:
        try:
            decode_apart(read_image(location), max_pixels, is_lenient=not is_file(location))
        except BadImage as error:
            problems.append(f"{location}: {error}")
    if problems:
        raise InputError(
            f"evaluation images that cannot be read ({len(problems)}); replace or remove them:\n"
            f"{list_problems(problems)}"
        )


def count_images(domain: DomainConfig) -> int:
    """Count the labelled images that a domain lists; 0 where its set is not there, or wrong."""
    if domain.evaluation is not None:
        with suppress(Unavailable, InputError):
            return domain.evaluation.count(domain)
    return 0


def read_images(artifact: Artifact, domain: DomainConfig | None = None) -> pd.DataFrame:
    """Read the images of a published evaluation set.

    Args:
        domain: Says where the images are today; unset: where they were when the set was published.

    Returns:
        Columns name (path as the set names it), path (absolute, or a location that
        `kind.read_image` reads), class, class_id, sha256, and subject where a manifest names what
        each image shows; empty if the set is unavailable.
    """
    images = pd.read_parquet(artifact.file(IMAGES))
    root = artifact.path / artifact.counts.get("root", "")
    if domain is not None and domain.evaluation is not None:
        root = domain.evaluation.root() or root
    images.insert(0, "name", images["path"])
    if evaluation := artifact.manifest["config"]["evaluation"]:
        images["path"] = _locations(images, evaluation["kind"], root)
    return images


@dataclass(frozen=True)
class PublishedImages:
    """Images of `read_images` by their position. Can be sent to other processes.

    Attributes:
        paths: Of ELEVATER's truncated files the decodable part is used.
        max_pixels: Larger images are refused.
    """

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    max_pixels: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def decoded(self, position: int) -> Image.Image:
        """Decode one image, RGB. It was decoded apart when its set was published.

        Raises:
            ChangedSource: If its file is gone or differs from what was published.
        """
        data = self.read(position)
        if is_file(self.paths[position]):
            return decode_image(data, self.max_pixels)
        return decode_what_is_there(data, self.max_pixels)

    def read(self, position: int) -> bytes:
        """Read one image's file; errors as of `decoded`."""
        path = self.paths[position]
        try:
            data = read_image(path)
        except InputError as error:
            raise ChangedSource(str(error)) from error
        if hashlib.sha256(data).hexdigest() != self.sha256[position]:
            raise ChangedSource(
                f"{path}: changed since its set was published; rematerialize `{EVALUATION_SET}`, "
                "or `few_shot_set` for one of `shots`"
            )
        return data


def preprocessing(clip: Clip, *, squash: bool = False) -> Preprocess:
    """Return the model's own preprocessing (shortest side, centre crop), or one that squashes
    images to a square.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if not squash:
        return clip.preprocess
    squashing = PreprocessCfg(**{**clip.preprocess_cfg, "resize_mode": "squash"})
    return image_transform_v2(squashing, is_train=False)


def encode_images(
    config: PipelineConfig,
    clip: Clip,
    images: pd.DataFrame,
    precision: str | None = None,
    *,
    squash: bool = False,
) -> NDArray[np.float32]:
    """Encode labelled images; the next batch is decoded in threads while one is encoded.

    Steps of a process that encode the same images with the same tower share the vectors
    (`Clip.once`); the files are compared with what was published all the same.

    Args:
        config: For the batch size, workers and precision of `embedding`, and `corpus.max_pixels`.
        images: Of `read_images`.
        precision: Unset: that of `embedding`, so that the vectors compare with those of the corpus.
        squash: Whether images are squashed, as one data set of ELEVATER's is.

    Returns:
        Unit vectors, float32 (N, D), in the order of `images`.

    Raises:
        ChangedSource: If a file is gone or differs from what was published.
    """
    from react_pipeline.clip import Pixels
    from react_pipeline.embedding import Encoder

    max_pixels = config.corpus.max_pixels
    published = PublishedImages(tuple(images["path"]), tuple(images["sha256"]), max_pixels)
    precision = precision or config.embedding.precision
    preprocess = preprocessing(clip, squash=squash)
    inputs = canonical_json([precision, repr(preprocess), *published.sha256]).encode()
    encoded = False

    def encode() -> Tensor:
        nonlocal encoded
        encoded = True
        encoder = Encoder(clip, precision, rows=len(published))
        return _encoded(config, encoder, published, Pixels(preprocess))

    vectors = clip.once("image", inputs, encode)
    if not encoded:
        for position in range(len(published)):
            published.read(position)
    return vectors.numpy()


def _encoded(
    config: PipelineConfig, encoder: Encoder, published: PublishedImages, pixels: Pixels
) -> Tensor:
    """Return unit vectors (N, D) of images."""
    import torch
    from tqdm import tqdm

    def prepare(position: int) -> Tensor:
        return pixels(published.decoded(position))

    size = config.embedding.batch_size
    positions = range(len(published))
    vectors = [torch.zeros(0, encoder.clip.dimension)]
    with ThreadPoolExecutor(max(config.embedding.worker_count, 1)) as pool:
        coming = pool.map(prepare, positions[:size])
        starts = range(size, len(positions) + size, size)
        for start in tqdm(starts, desc="evaluation images", disable=None, leave=False):
            batch = torch.stack(list(coming))
            coming = pool.map(prepare, positions[start : start + size])
            vectors.append(encoder.images(batch))
    return torch.cat(vectors)
