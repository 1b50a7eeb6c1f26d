"""Labelled images: the evaluation set of a domain as an artifact, and decoding and encoding its
images.

Does not belong here: how sets are listed (`labels`, `evaluation_images`), what is measured on them
(`evaluation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import BadImage, decode_image, decode_what_is_there
from react_pipeline.demo import installed_versions
from react_pipeline.labelled.evaluation_images import (
    is_location,
    list_images,
    location_of,
    read_location,
)
from react_pipeline.labelled.images import Unavailable
from react_pipeline.labelled.labels import lines_of, read_folder, read_manifest
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, PipelineConfig
from react_pipeline.store import Artifact, InputError, canonical_json

if TYPE_CHECKING:
    from PIL import Image

    from react_pipeline.clip import Clip
    from react_pipeline.labelled.encoding import Preprocess

STAGE = "evaluation_set"
IMAGES = "images.parquet"
_COLUMNS = ["path", "class", "class_id", "sha256", "subject"]


def publish_evaluation_set(project: Project, slug: str) -> Artifact:
    """Publish a domain's labelled images: their paths, classes and digests (the demo's images too).

    A set that is not configured, or whose path is not there, is published as `unavailable` with the
    reason, so that results can say so. Anything else that is wrong is an error, because it would
    silently change what is measured. Every file is hashed at each call; its folder is not part of
    its identity.

    Raises:
        InputError: Listing every unknown class, missing file, repeated row, or image that cannot be
            decoded.
    """
    domain = project.domain(slug)
    evaluation = domain.evaluation
    max_pixels = project.config.corpus.max_pixels
    if evaluation is not None and evaluation.kind == "demo":

        def build_demo(directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
            from react_pipeline.demo import build_evaluation

            build_evaluation(evaluation.name, directory)
            images = read_manifest(directory / "manifest.csv", domain)
            locations = _located(directory, images["path"])
            _require_decodable(locations, max_pixels)
            return _with_digests(images, locations), {
                "name": evaluation.name,
                "root": "",
                **_coverage(images, domain),
            }

        return _publish(project, domain, {"demo": installed_versions()}, build_demo)
    try:
        images, notes = _list(domain)
    except Unavailable as error:
        unavailable = {"unavailable": error.reason}
        return _publish(project, domain, unavailable, lambda _: (_no_images(), unavailable))
    locations = _located(Path(notes["root"]), images["path"], of_elevater="dataset" in notes)
    images = _with_digests(images, locations)
    identity = hashlib.sha256(canonical_json(images.to_numpy().tolist()).encode()).hexdigest()

    def build(_directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        _require_decodable(locations, max_pixels)
        return images, {**notes, **_coverage(images, domain)}

    return _publish(project, domain, {"images": len(images), "sha256": identity}, build)


def count_images(domain: DomainConfig) -> int:
    """How many labelled images a domain lists; 0 where its set is not there, or wrong."""
    evaluation = domain.evaluation
    if evaluation is not None and evaluation.kind == "demo":
        from react_pipeline.demo import labelled_emoji

        return len(labelled_emoji(evaluation.name))
    with suppress(Unavailable, InputError):
        return len(_list(domain)[0])
    return 0


def read_images(artifact: Artifact, domain: DomainConfig | None = None) -> pd.DataFrame:
    """The images of a published evaluation set.

    Args:
        domain: Says where the images are today; unset: where they were when the set was published.

    Returns:
        Columns name (path as the set names it), path (absolute; for a data set of ELEVATER a
        location that
        `evaluation_images` reads), class, class_id, sha256, and subject where a manifest names what
        each image shows;
        empty if the set is unavailable.
    """
    images = pd.read_parquet(artifact.file(IMAGES))
    root = artifact.path / artifact.counts.get("root", "")
    evaluation = None if domain is None else domain.evaluation
    if evaluation is not None and evaluation.path is not None:
        root = _root(evaluation.path, evaluation.kind)
    images.insert(0, "name", images["path"])
    images["path"] = _located(root, images["name"], of_elevater="dataset" in artifact.counts)
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
        """Number of images."""
        return len(self.paths)

    def decoded(self, position: int, *, lazy: bool = False) -> Image.Image:
        """One image, RGB; `lazy` as in `corpus.decode_image`.

        Raises:
            InputError: If its file is gone or differs from what was published.
        """
        path = self.paths[position]
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self.sha256[position]:
            raise InputError(
                f"{path}: changed since the set was published; rematerialize `{STAGE}`"
            )
        return _decoded(path, data, self.max_pixels, lazy=lazy)


def preprocessing_for(clip: Clip, domain: DomainConfig) -> Preprocess:
    """The preprocessing that a domain's labelled images are measured with: a data set of ELEVATER
    brings its own.
    """
    from react_pipeline.labelled.encoding import preprocessing

    return preprocessing(clip, squash=domain.evaluation is not None and domain.evaluation.squash)


def encode_images(
    config: PipelineConfig,
    clip: Clip,
    images: pd.DataFrame,
    preprocess: Preprocess | None = None,
    precision: str | None = None,
) -> NDArray[np.float32]:
    """Encode labelled images; the next batch is decoded in threads while one is encoded.

    Args:
        config: For the batch size, workers and precision of `embedding`, and `corpus.max_pixels`.
        images: Of `read_images`.
        preprocess: Of `preprocessing_for`; unset: the model's own, as for the corpus.
        precision: Unset: that of `embedding`, so that the vectors compare with those of the corpus.

    Returns:
        Unit vectors, float32 (N, D), in the order of `images`.

    Raises:
        InputError: If a file is gone or differs from what was published.
    """
    import torch
    from tqdm import tqdm

    from react_pipeline.embedding import LONG_RUN, Encoder

    encoder = Encoder(
        clip, precision or config.embedding.precision, long_run=len(images) >= LONG_RUN
    )
    published = PublishedImages(
        tuple(images["path"]), tuple(images["sha256"]), config.corpus.max_pixels
    )

    def prepare(position: int) -> torch.Tensor:
        return (preprocess or encoder.to_tensor)(published.decoded(position))

    size = config.embedding.batch_size
    batches = [range(len(images))[start : start + size] for start in range(0, len(images), size)]
    vectors = [np.zeros((0, clip.dimension), np.float32)]
    with ThreadPoolExecutor(max(config.embedding.workers, 1)) as pool:
        coming = pool.map(prepare, batches[0] if batches else ())
        for following in tqdm(
            [*batches[1:], ()], desc="evaluation images", disable=None, leave=False
        ):
            if ready := list(coming):
                coming = pool.map(prepare, following)
                vectors.append(encoder.images(torch.stack(ready)).numpy())
    return np.concatenate(vectors)


def _list(domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The images of a set on disk, path and class, and what the manifest says of them.

    Raises:
        Unavailable: If none is configured, or it is not there.
        InputError: If it is wrong.
    """
    evaluation = domain.evaluation
    if evaluation is None or evaluation.path is None:
        raise Unavailable(
            "no evaluation set is configured: add `evaluation` to the domain file, or use "
            "`react-pipeline judge`"
        )
    about, root = f"evaluation set {evaluation.name!r}", _root(evaluation.path, evaluation.kind)
    notes: dict[str, Any] = {"name": evaluation.name, "root": str(root)}
    if evaluation.kind == "manifest":
        if not evaluation.path.is_file():
            raise Unavailable(f"{about}: there is no file {evaluation.path}")
        return read_manifest(evaluation.path, domain), notes
    if not root.is_dir():
        raise Unavailable(f"{about}: there is no folder {evaluation.path}")
    if evaluation.dataset is None:
        images, ignored = read_folder(root, domain)
        return images, {**notes, "ignored_files": ignored}
    try:
        return list_images(root, evaluation.dataset, domain), {
            **notes,
            "dataset": evaluation.dataset,
        }
    except Unavailable as error:
        raise Unavailable(f"{about}: {error.reason}") from error


def _root(path: Path, kind: str) -> Path:
    return path.resolve().parent if kind == "manifest" else path.resolve()


def _located(root: Path, names: Iterable[str], *, of_elevater: bool = False) -> list[str]:
    return [location_of(root, name) if of_elevater else str(root / name) for name in names]


def _publish(
    project: Project,
    domain: DomainConfig,
    content: Mapping[str, Any],
    build: Callable[[Path], tuple[pd.DataFrame, dict[str, Any]]],
) -> Artifact:
    class_ids = {name: position for position, name in enumerate(domain.class_names)}

    def write(directory: Path) -> dict[str, Any]:
        images, counts = build(directory)
        images["class_id"] = images["class"].map(class_ids).astype("int32")
        images[[name for name in _COLUMNS if name in images]].to_parquet(
            directory / IMAGES, index=False
        )
        return {"images": len(images), **counts}

    return project.store.build(resolve(project, STAGE, domain.slug, content=content), write)


def _no_images() -> pd.DataFrame:
    return pd.DataFrame({"path": [], "class": [], "sha256": []}, dtype=str)


def _with_digests(images: pd.DataFrame, locations: Sequence[str]) -> pd.DataFrame:
    return images.assign(
        sha256=[hashlib.sha256(_read(location)).hexdigest() for location in locations]
    )


def _decoded(location: str, data: bytes, max_pixels: int, *, lazy: bool = False) -> Image.Image:
    if is_location(
        location
    ):  # as in the benchmark; a truncated file among a user's own images must be fixed
        return decode_what_is_there(data, max_pixels)[0]
    return decode_image(data, max_pixels, lazy=lazy)


def _require_decodable(locations: Sequence[str], max_pixels: int) -> None:
    problems = []
    for location in locations:
        try:
            _decoded(location, _read(location), max_pixels)
        except BadImage as error:
            problems.append(f"{location}: {error}")
    if problems:
        raise InputError(
            f"{len(problems)} evaluation images cannot be used; fix or remove "
            f"them\n{lines_of(problems)}"
        )


def _coverage(images: pd.DataFrame, domain: DomainConfig) -> dict[str, Any]:
    covered = set(images["class"])
    missing = [name for name in domain.class_names if name not in covered]
    return {"classes": len(covered), "classes_without_images": missing}


def _read(path: str) -> bytes:
    if is_location(path):
        return read_location(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
