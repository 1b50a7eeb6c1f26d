"""A customized model as MLflow loads and serves it: a row with an image in, a row with its class
out.

MLflow copies this file into each model and runs it from there (models from code), so that nothing
is pickled; it imports installed packages alone.

A row that is not an image gets a text in the column `error`, and the others of the request their
classes.
"""

import base64
import binascii
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL.Image import Image

try:
    from react_pipeline import Classifier
    from react_pipeline.corpus import BadImage, decode_apart
    from react_pipeline.settings import MAX_PIXELS
    from react_pipeline.store import read_bounded
except ModuleNotFoundError as error:
    MESSAGE = (
        "this model needs react_pipeline in the environment that loads it; it is on no index: "
        "install its wheel"
    )
    raise ModuleNotFoundError(MESSAGE, name=error.name) from error

COLUMN = "image"
MAX_IMAGE_BYTES = 64 << 20
BATCH_IMAGES = 64
BATCH_PIXELS = 1 << 26
"""Images, and pixels, that are in memory at a time."""

MAX_TOP_K = 1_000
MAX_SERVED_ROWS = 1_000
"""Of one request over HTTP."""

_SERVED = "__pyfunc_model_path__"
"""Variable of the processes of `mlflow models serve`: whoever asks there must not name files of the
machine.
"""
_SERVED_SECONDS = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
"""Variable of these: seconds after which MLflow has answered 504."""


class ServedClassifier(PythonModel):
    """What `mlflow.pyfunc.load_model` returns for a version of `react-<domain>`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the exported folder in the model."""
        self._classifier = Classifier.load(context.artifacts["model"])
        self._turn = threading.Lock()
        if _SERVED in os.environ:
            from react_pipeline.extensions.served_models.guard import guard

            guard()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify the images of a frame.

        Args:
            model_input: Column `image`: bytes of an image file, the same as base64, a data URI, or,
                unless it is served over HTTP, a path.
            params: `top_k`, how many classes to give; `threshold`, the confidence below which the
                label is `unknown`.

        Returns:
            For each row `label`, `confidence`, whether it is `calibrated` (else it is CLIP's own
            softmax), `margin`,
            `classes` and `scores` (nearest first), and `error`.

        Raises:
            MlflowException: If the column is missing, a parameter is out of its range, or a request
                over HTTP has more than `MAX_SERVED_ROWS`.
        """
        options = params or {}
        top_k = int(options.get("top_k", 5))
        threshold = float(options.get("threshold", 0.0))
        in_range = 1 <= top_k <= MAX_TOP_K and 0 <= threshold <= 1
        if COLUMN not in model_input or not in_range:
            # Of MLflow's kind, which its server answers in one line.
            raise MlflowException.invalid_parameter_value(
                f"give a column {COLUMN!r}, a `top_k` from 1 to {MAX_TOP_K}, and a `threshold` "
                "from 0 to 1"
            )
        end = float("inf")
        if _SERVED in os.environ:
            if len(model_input) > MAX_SERVED_ROWS:
                raise MlflowException.invalid_parameter_value(
                    f"{len(model_input):,} rows; send at most {MAX_SERVED_ROWS:,} in a request"
                )
            end = time.monotonic() + float(os.environ.get(_SERVED_SECONDS, 60))
        # One request computes at a time: it takes all processors, and memory for its images.
        with self._turn:
            return self._predicted(model_input, top_k, threshold, end)

    def _predicted(
        self, model_input: pd.DataFrame, top_k: int, threshold: float, end: float
    ) -> pd.DataFrame:
        """The answer; rows whose turn comes after `end` get an error."""
        calibrated = self._classifier.temperature is not None
        rows: list[tuple[Any, ...]] = []
        for decoded in _batches(list(model_input[COLUMN]), end):
            images = [one for one in decoded if isinstance(one, Image)]
            predictions = iter(self._classifier.predict(images, top_k=top_k, threshold=threshold))
            for one in decoded:
                if isinstance(one, Image):
                    near = next(predictions)
                    certain = (near.label, near.confidence, calibrated, near.margin)
                    rows.append((*certain, list(near.classes), list(near.scores), None))
                else:
                    rows.append((None, None, None, None, [], [], one))
        columns = ["label", "confidence", "calibrated", "margin", "classes", "scores", "error"]
        return pd.DataFrame(rows, columns=columns, index=model_input.index).astype(object)


def _batches(values: list[object], end: float) -> Iterator[list[Image | str]]:
    """Decoded images, `BATCH_IMAGES` and about `BATCH_PIXELS` at a time."""
    batch: list[Image | str] = []
    pixels = 0
    for value in values:
        one = _decoded(value) if time.monotonic() < end else "too_slow: the request's time is over"
        batch.append(one)
        pixels += one.width * one.height if isinstance(one, Image) else 0
        if len(batch) == BATCH_IMAGES or pixels >= BATCH_PIXELS:
            yield batch
            batch = []
            pixels = 0
    if batch:
        yield batch


def _decoded(value: object) -> Image | str:
    """The image, or what is wrong with it."""
    try:
        return decode_apart(_bytes(value), MAX_PIXELS)[0]
    except (BadImage, OSError, ValueError) as error:
        return str(error)


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        if os.environ.get(_SERVED) is None and len(value) < 4096 and Path(value).is_file():
            return read_bounded(Path(value), MAX_IMAGE_BYTES)
        text = value.partition(",")[2] if value.startswith("data:") else value
        _require_small(len(text) * 3 // 4)
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError(
                "not_an_image: neither base64 of an image file nor a file that may be read"
            ) from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"not_an_image: {type(value).__name__} instead of bytes, base64 or a path")
    _require_small(len(value))
    return bytes(value)


def _require_small(size_bytes: int) -> None:
    if size_bytes > MAX_IMAGE_BYTES:
        raise ValueError(f"too_many_bytes: {size_bytes:,}, allowed are {MAX_IMAGE_BYTES:,}")


mlflow.models.set_model(ServedClassifier())
