"""A customized model as a classifier of pictures: `Classifier.load("exported").predict(["a.jpg"])`.

Belongs here: the model with its head, loading it from an exported folder, scores and their
calibration. Does not belong here: which model of a project is meant (`chosen_model`), thousands of
pictures (`extensions.predict`). Shapes: B pictures, C classes, D embedding dimension. Needs only
the light installation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.clip import (
    HEAD_FILE,
    HEAD_RECORD_FILE,
    LOGIT_SCALE,
    ClassHead,
    Clip,
    choose_device,
    load,
)
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import Encoder
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import (
    MAX_IMAGE_BYTES,
    CorruptArtifact,
    InputError,
    read_bounded,
    read_json_bounded,
    sha256_of,
)

RECORD_FILE, CALIBRATION_FILE = "export.json", "calibration.json"
UNKNOWN = "unknown"
"""In the place of a class whose confidence is below the threshold."""

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]
_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What a picture shows.

    Attributes:
        label: The first of `classes`, or `unknown` below the threshold.
        confidence: Probability of the first class; calibrated if `Classifier.temperature` is not
            None.
        margin: Score of the first class minus that of the second; 0 where there is one class.
        classes: The k nearest classes, nearest first.
        scores: Their logits / 100: cosine similarities, for a head without bias.
    """

    label: str
    confidence: float
    margin: float
    classes: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Origin:
    """Which model it is: its domain, method, and the checkpoint's fingerprint."""

    domain: str
    method: str
    fingerprint: str

    def __str__(self) -> str:
        """For messages and pages."""
        return f"{self.method} ({self.fingerprint[:8]}) of {self.domain}"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model, and a head.

    Attributes:
        clip: Encodes the pictures.
        head: Class vectors (D, C), and a bias.
        classes: C names.
        origin: Which model it is.
        temperature: Of the softmax, as `calibrated_on` says; None: CLIP's own softmax, which is
            not calibrated.
        calibrated_on: The labelled images, or held-out pairs, that it was fitted on; or empty.
        precision: As `embedding.precision`.
        note: What a user should know of the choice of the model.
    """

    clip: Clip
    head: ClassHead
    classes: tuple[str, ...]
    origin: Origin
    temperature: float | None = None
    calibrated_on: str = ""
    precision: str = "auto"
    note: str = ""

    @classmethod
    def load(
        cls,
        source: Path | str,
        model: str = "champion",
        *,
        config: Path | str | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> Classifier:
        """Load an exported folder, or a model of a project.

        Args:
            source: A folder written by `react-pipeline export`, or the slug of a domain.
            model: Of a domain: `champion`, or a method.
            config: The project's `pipeline.yaml`; unset: as for the commands.
            device: `auto`, `cpu` or `cuda`; unset: as the project says, `auto` without one.
            precision: `auto`, `fp32`, `bf16` or `fp16`; likewise.

        Raises:
            InputError: If there is no such model, or it was trained for other classes than the
                domain has.
            CorruptArtifact: If the folder's files are not those that were exported.
        """
        if is_exported(source):
            if model != "champion":
                raise InputError(
                    f"{source}: is an exported folder, which holds one model; leave out {model!r}"
                )
            return load_exported(Path(source), device, precision)
        from react_pipeline.use.chosen_model import load_chosen

        return load_chosen(source, model, config, device, precision)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        top_k: int = 5,
        threshold: float = 0.0,
    ) -> list[Prediction]:
        """Classify one picture or many: paths, bytes of image files, PIL images, or arrays (H, W,
        3) uint8.

        Args:
            top_k: How many classes to give.
            threshold: Below this confidence the label is `unknown`.

        Returns:
            A prediction for each picture, in their order.

        Raises:
            InputError: Naming the picture that cannot be read, or the argument.
        """
        if top_k < 1:
            raise InputError(f"top_k: {top_k}; give at least 1")
        similarities = self.head.scores(torch.from_numpy(self.embed(images))).numpy()
        ids, scores, confidence = self.rank(similarities, top_k)
        predictions = []
        rows = zip(ids, scores.tolist(), confidence.tolist(), margins(scores).tolist(), strict=True)
        for near, cosines, certain, margin in rows:
            names = tuple(self.classes[number] for number in near)
            label = names[0] if certain >= threshold else UNKNOWN
            predictions.append(Prediction(label, certain, margin, names, tuple(cosines)))
        return predictions

    def embed(self, images: Picture | Iterable[Picture]) -> NDArray[np.float32]:
        """Encode pictures, as `predict` takes them, as unit vectors (B, D), float32; errors
        likewise.
        """
        pictures = _listed(images)
        parts = [np.zeros((0, self.clip.dimension), np.float32)]
        for start in range(0, len(pictures), _BATCH):
            tensors = [
                self.encoder.to_tensor(_decoded(picture, place))
                for place, picture in enumerate(pictures[start : start + _BATCH], start)
            ]
            parts.append(self.encoder.images(torch.stack(tensors)).numpy())
        return np.concatenate(parts)

    @cached_property
    def encoder(self) -> Encoder:
        """The image tower as it runs fastest for a few pictures."""
        return Encoder(self.clip, self.precision)

    def rank(
        self, similarities: NDArray[np.float32], top_k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Rank the best classes by scores (B, C).

        Returns:
            Class ids (B, k) and their scores (B, k), highest first, and the confidence (B,) in the
            first; k is min(top_k, C).
        """
        ids = np.argsort(-similarities, axis=1, kind="stable")[:, :top_k]
        scores = np.take_along_axis(similarities, ids, axis=1)
        logits = (similarities - scores[:, :1]).astype(np.float64) * (
            LOGIT_SCALE / (self.temperature or 1.0)
        )
        # The largest exponential is exp(0) = 1.
        return ids, scores, (1 / np.exp(logits).sum(axis=1)).astype(np.float32)

    @property
    def calibration(self) -> str:
        """What the confidence is worth, in one sentence."""
        if self.temperature is None:
            return (
                "Confidence is a softmax and not calibrated: no labelled images were measured with "
                "this model in this way."
            )
        return (
            f"Confidence is calibrated: temperature {self.temperature:.4g}, fitted on "
            f"{self.calibrated_on}."
        )


def margins(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return first minus second score (B,) of scores (B, k), nearest first; 0 where k is 1."""
    return scores[:, 0] - scores[:, min(1, scores.shape[1] - 1)]


def is_exported(place: Path | str) -> bool:
    """Whether this is a folder that `export` wrote."""
    return (Path(place).expanduser() / RECORD_FILE).is_file()


def load_exported(
    folder: Path, device: str | None = None, precision: str | None = None
) -> Classifier:
    """Load a folder that `export` wrote; what is read of it is compared with its record.

    Raises:
        CorruptArtifact: If a file is not the one that was exported.
    """
    folder = folder.expanduser()
    try:
        record = read_json_bounded(folder / RECORD_FILE)
        for name, sha256 in record["files"].items():
            if name.endswith((".json", ".safetensors")) and sha256_of(folder / name) != sha256:
                raise ValueError(f"{name} is not the file that was exported")
        head_record: dict[str, Any] = read_json_bounded(folder / HEAD_RECORD_FILE)
        calibration = read_json_bounded(folder / CALIBRATION_FILE)
        fitted = calibration["temperature"], calibration["calibrated_on"]
        head = ClassHead.read(folder / HEAD_FILE)
        origin = Origin(*(str(record[name]) for name in ("domain", "method", "fingerprint")))
        classes = tuple(map(str, head_record["classes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptArtifact(
            f"{folder}: the export is incomplete or damaged ({error}); export it again"
        ) from error
    clip = load(folder, choose_device(device or "auto"))
    return Classifier(clip, head, classes, origin, *fitted, precision or "auto")


def _listed(images: Picture | Iterable[Picture]) -> Sequence[Picture]:
    """Return a single picture as a list: a text is no list of characters here."""
    if isinstance(images, str | Path | bytes | Image.Image):
        return [images]
    return [images] if isinstance(images, np.ndarray) and images.ndim < 4 else list(images)


def _decoded(picture: Picture, number: int) -> Image.Image:
    name = str(picture) if isinstance(picture, str | Path) else f"picture {number}"
    try:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
                raise ValueError(
                    f"an array {picture.shape} of {picture.dtype}; give (H, W, 3) of uint8"
                )
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            if 0 in picture.size:
                raise ValueError("no pixels")
            return picture.convert("RGB")
        if not isinstance(picture, bytes):
            picture = read_bounded(Path(picture).expanduser(), MAX_IMAGE_BYTES)
        return decode_image(picture, MAX_PIXELS)
    except Exception as error:
        # Pillow reads an opened image only now, and its decoders raise nearly anything.
        raise InputError(f"{name}: no usable image ({error})") from error
