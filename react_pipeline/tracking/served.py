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
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL.Image import Image

from react_pipeline import Classifier
from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import MAX_IMAGE_BYTES, read_bounded
from react_pipeline.tracking.package import ANSWER

BATCH_IMAGES = 8
"""Images that are in memory at a time; each may have `MAX_PIXELS`."""

MAX_TOP_K = 1_000
MAX_SERVED_ROWS = 1_000
"""Of one request over HTTP."""

_SERVED = "__pyfunc_model_path__"
"""Variable of the processes of `mlflow models serve`: HTTP clients must not be able to read local
files.
"""


class ServedClassifier(PythonModel):
    """What `mlflow.pyfunc.load_model` returns for a version of `react-<domain>`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the exported folder in the model."""
        self._classifier = Classifier.load(context.artifacts["model"])
        self._turn = threading.Lock()

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
            softmax), `margin`, `classes` and `scores` (nearest first), and `error`.

        Raises:
            MlflowException: If a parameter is out of its range, or a request over HTTP has more
                than `MAX_SERVED_ROWS`.
        """
        options = params or {}  # MLflow gives all of the signature
        top_k, threshold = options["top_k"], options["threshold"]
        # MLflow's server answers errors of its own kind in one line.
        if not (1 <= top_k <= MAX_TOP_K and 0 <= threshold <= 1):
            raise MlflowException.invalid_parameter_value(
                f"give a `top_k` from 1 to {MAX_TOP_K}, and a `threshold` from 0 to 1"
            )
        if _SERVED in os.environ and len(model_input) > MAX_SERVED_ROWS:
            raise MlflowException.invalid_parameter_value(
                f"{len(model_input):,} rows; send at most {MAX_SERVED_ROWS:,} in a request"
            )
        values = list(model_input["image"])
        rows: list[dict[str, Any]] = []
        # One request computes at a time: it takes all processors, and memory for its images.
        with self._turn:
            for start in range(0, len(values), BATCH_IMAGES):
                rows += self._rows(values[start : start + BATCH_IMAGES], top_k, threshold)
        found = pd.DataFrame(rows, columns=ANSWER, index=model_input.index).astype(object)
        return found.where(found.notna(), None)

    def _rows(self, values: list[object], top_k: int, threshold: float) -> list[dict[str, Any]]:
        decoded = [_decode(value) for value in values]
        images = [one for one in decoded if isinstance(one, Image)]
        predictions = iter(self._classifier.predict(images, top_k=top_k, threshold=threshold))
        calibrated = self._classifier.temperature is not None
        return [
            {"classes": [], "scores": [], "error": one}
            if isinstance(one, str)
            else {**vars(next(predictions)), "calibrated": calibrated}
            for one in decoded
        ]


def _decode(value: object) -> Image | str:
    """Return the image, or what is wrong with it."""
    try:
        return decode_apart(_read(value), MAX_PIXELS)
    except (BadImage, OSError, ValueError) as error:
        return str(error)


def _read(value: object) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ValueError: If there are none.
        OSError: If a file cannot be read.
    """
    if isinstance(value, str):
        if _SERVED not in os.environ and len(value) < 4096 and Path(value).is_file():
            return read_bounded(Path(value), MAX_IMAGE_BYTES)
        try:
            # A data URI ends with base64.
            value = base64.b64decode(value.rpartition(",")[2], validate=True)
        except binascii.Error:
            raise ValueError(
                "not_an_image: neither base64 of an image file nor a file that may be read"
            ) from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"not_an_image: {type(value).__name__} instead of bytes, base64 or a path")
    return bytes(value)


mlflow.models.set_model(ServedClassifier())
