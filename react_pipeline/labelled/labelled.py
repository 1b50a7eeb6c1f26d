"""Labelled images: the evaluation set of a domain, as an artifact, and the reading of its images.

Belongs here: publishing a set of any kind (folder, manifest, data set of ELEVATER, demo), and decoding and encoding its
images. Does not belong here: how these are read (`labels`, `evaluation_images`), what is measured on the
images (`evaluation`), or what is kept out of the retrieved set because of them (`duplicates`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import BadImage, decode_image, truncated_images
from react_pipeline.demo import installed_versions
from react_pipeline.labelled.evaluation_images import is_location, list_images, location_of, read_location
from react_pipeline.labelled.images import Unavailable
from react_pipeline.labelled.labels import lines_of, read_folder, read_manifest
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, EvaluationSetConfig
from react_pipeline.store import Artifact, InputError, canonical_json

if TYPE_CHECKING:
    from PIL import Image

    from react_pipeline.clip import Clip
    from react_pipeline.labelled.encoding import Preprocess

STAGE = "evaluation_set"
IMAGES = "images.parquet"
_COLUMNS = ["path", "class", "class_id", "sha256"]


def publish_evaluation_set(project: Project, slug: str) -> Artifact:
    """Publish a domain's labelled images: their paths, classes and digests (the demo's images too).

    A set that is not configured, or whose path is not there, is published as `unavailable` with the reason, so that
    results can say so. Anything else that is wrong is an error, because it would silently change what is measured.
    Every file is hashed at each call; its folder is no part of its identity.

    Raises:
        InputError: Listing every unknown class, missing file, repeated row, or image that cannot be decoded.
    """
    domain = project.domain(slug)
    evaluation = domain.evaluation
    reason = _unavailable(evaluation)
    if evaluation is None or reason:
        return _publish(project, slug, {"unavailable": reason}, lambda _: (_no_images(), {"unavailable": reason}))

    if evaluation.kind == "demo":

        def build_demo(directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
            from react_pipeline.demo import build_evaluation

            build_evaluation(evaluation.name, directory)
            images = read_manifest(directory / "manifest.csv", domain)
            locations = [str(directory / name) for name in images["path"]]
            images = _with_digests(images, locations)
            _require_decodable(locations, project.config.corpus.max_pixels, evaluation.kind)
            return images, {"name": evaluation.name, "root": "", **_coverage(images, domain)}

        return _publish(project, slug, {"demo": installed_versions()}, build_demo)

    root = _root(evaluation)
    if evaluation.kind == "folder":
        images, notes = read_folder(root, domain)
    elif evaluation.dataset is not None:
        try:
            images, notes = list_images(root, evaluation.dataset, domain), {"dataset": evaluation.dataset}
        except Unavailable as error:
            reason = f"evaluation set {evaluation.name!r}: {error.reason}"
            return _publish(project, slug, {"unavailable": reason}, lambda _: (_no_images(), {"unavailable": reason}))
    else:
        images, notes = read_manifest(evaluation.path or root, domain), {}
    images = _with_digests(images, _locations(images, evaluation))
    identity = hashlib.sha256(canonical_json(images.to_numpy().tolist()).encode()).hexdigest()

    def write(_directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        _require_decodable(_locations(images, evaluation), project.config.corpus.max_pixels, evaluation.kind)
        return images, {"name": evaluation.name, "root": str(root), **notes, **_coverage(images, domain)}

    return _publish(project, slug, {"images": len(images), "sha256": identity}, write)


def read_images(artifact: Artifact, domain: DomainConfig | None = None) -> pd.DataFrame:
    """The images of a published evaluation set.

    Args:
        domain: Says where the images are today; unset: where they were when the set was published.

    Returns:
        Columns name (path as the set names it), path (absolute; for a data set of ELEVATER a location that
        `evaluation_images` reads), class, class_id, sha256; empty if the set is unavailable.
    """
    images = pd.read_parquet(artifact.file(IMAGES))
    root = artifact.path / artifact.counts.get("root", "")
    if domain is not None and domain.evaluation is not None and domain.evaluation.path is not None:
        root = _root(domain.evaluation)
    images.insert(0, "name", images["path"])
    locate = location_of if "dataset" in artifact.counts else _path_below
    images["path"] = [locate(root, name) for name in images["name"]]
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
            raise InputError(f"{path}: changed since the set was published; rematerialize `{STAGE}`")
        with _tolerance(is_location(path)):
            return decode_image(data, self.max_pixels, lazy=lazy)


def preprocessing_for(clip: Clip, domain: DomainConfig) -> Preprocess:
    """The preprocessing that a domain's labelled images are measured with: a data set of ELEVATER brings its own."""
    from react_pipeline.labelled.encoding import preprocessing

    return preprocessing(clip, squash=domain.evaluation is not None and domain.evaluation.squash)


def encode_images(
    clip: Clip,
    images: pd.DataFrame,
    *,
    max_pixels: int,
    batch_size: int,
    workers: int,
    precision: str,
    preprocess: Preprocess | None = None,
) -> NDArray[np.float32]:
    """Encode labelled images; the next batch is decoded in threads while one is encoded.

    Args:
        images: Of `read_images`, read as `PublishedImages` does.
        max_pixels: Larger images are refused.
        precision: As `embedding.precision`.
        preprocess: Of `preprocessing_for`; unset: the model's own, as for the corpus.

    Returns:
        Unit vectors, float32 (N, D), in the order of `images`.

    Raises:
        InputError: If a file is gone or differs from what was published.
    """
    import torch
    from tqdm import tqdm

    from react_pipeline.embedding import LONG_RUN, Encoder

    encoder = Encoder(clip, precision, long_run=len(images) >= LONG_RUN)

    published = PublishedImages(tuple(images["path"]), tuple(images["sha256"]), max_pixels)

    def prepare(position: int) -> torch.Tensor:
        return (preprocess or encoder.to_tensor)(published.decoded(position))

    batches = [range(len(images))[start : start + batch_size] for start in range(0, len(images), batch_size)]
    vectors = [np.zeros((0, clip.dimension), np.float32)]
    of_elevater = bool(len(images)) and is_location(published.paths[0])
    with _tolerance(of_elevater), ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting = [pool.submit(prepare, position) for position in batches[0]] if batches else []
        followers = [*batches[1:], range(0)][: len(batches)]
        for following in tqdm(followers, desc="evaluation images", disable=None, leave=False):
            ready = [task.result() for task in waiting]
            waiting = [pool.submit(prepare, position) for position in following]
            vectors.append(encoder.images(torch.stack(ready)).numpy())
    return np.concatenate(vectors)


def _publish(
    project: Project,
    slug: str,
    content: Mapping[str, Any],
    build: Callable[[Path], tuple[pd.DataFrame, dict[str, Any]]],
) -> Artifact:
    class_ids = {name: position for position, name in enumerate(project.domain(slug).class_names)}

    def write(directory: Path) -> dict[str, Any]:
        images, counts = build(directory)
        images["class_id"] = images["class"].map(class_ids).astype("int32")
        images[_COLUMNS].to_parquet(directory / IMAGES, index=False)
        return {"images": len(images), **counts}

    return project.store.build(resolve(project, STAGE, slug, content=content), write)


def _unavailable(evaluation: EvaluationSetConfig | None) -> str | None:
    if evaluation is None:
        return "no evaluation set is configured: add `evaluation` to the domain file, or use `react-pipeline judge`"
    if evaluation.kind in ("folder", "elevater") and not _root(evaluation).is_dir():
        return f"evaluation set {evaluation.name!r}: there is no folder {evaluation.path}"
    if evaluation.kind == "manifest" and not (evaluation.path and evaluation.path.is_file()):
        return f"evaluation set {evaluation.name!r}: there is no file {evaluation.path}"
    return None


def _root(evaluation: EvaluationSetConfig) -> Path:
    path = (evaluation.path or Path()).resolve()
    return path.parent if evaluation.kind == "manifest" else path


def _no_images() -> pd.DataFrame:
    return pd.DataFrame({"path": [], "class": [], "sha256": []}, dtype=str)


def _locations(images: pd.DataFrame, evaluation: EvaluationSetConfig) -> list[str]:
    locate = location_of if evaluation.kind == "elevater" else _path_below
    return [locate(_root(evaluation), name) for name in images["path"]]


def _path_below(root: Path, name: str) -> str:
    return str(root / name)


def _with_digests(images: pd.DataFrame, locations: Sequence[str]) -> pd.DataFrame:
    return images.assign(sha256=[hashlib.sha256(_read(location)).hexdigest() for location in locations])


def _tolerance(of_elevater: bool) -> AbstractContextManager[None]:
    # As in the benchmark; a truncated file among a user's own images must be fixed.
    return truncated_images() if of_elevater else nullcontext()


def _require_decodable(locations: Sequence[str], max_pixels: int, kind: str) -> None:
    problems = []
    with _tolerance(kind == "elevater"):
        for location in locations:
            try:
                decode_image(_read(location), max_pixels)
            except BadImage as error:
                problems.append(f"{location}: {error}")
    if problems:
        raise InputError(f"{len(problems)} evaluation images cannot be used; fix or remove them\n{lines_of(problems)}")


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
