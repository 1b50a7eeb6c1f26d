"""A checkpoint as an MLflow model that can be loaded and served: its files, signature, example and
environment.

Does not belong here: what it answers (`served`), where it goes (`react_pipeline.tracking`).
"""

from __future__ import annotations

import base64
import io
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from react_pipeline.extensions.hub import write_calibration, write_package
from react_pipeline.project import Project
from react_pipeline.store import Artifact, ReactError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

SaveModel = Callable[[Path, Any], None]
"""Saves a `LoggedModel` of MLflow in a folder."""

REQUIREMENTS = ("mlflow", "numpy", "open_clip_torch", "pandas", "pillow", "safetensors", "timm")
"""Packages that prediction needs. torch is left to the machine, which has a build for its processor
or GPU.

This package is not listed: its name is on no index, so a tool that installs this list could get a
stranger's package.
"""

FOLDER = "model"
"""Name of the exported folder among the model's `artifacts`."""


def package_model(project: Project, checkpoint: Artifact, directory: Path) -> SaveModel | None:
    """Write a trained checkpoint below an empty folder, to be used without the store.

    Returns:
        What saves it as an MLflow model; None: a model whose pairs were pruned has no class names
        any more.
    """
    (folder := directory / FOLDER).mkdir()
    try:
        write_package(project, checkpoint, folder)
    except ReactError as error:
        logger.warning(
            "%s %s is logged without a model to load: %s", checkpoint.stage, checkpoint.key, error
        )
        return None
    return partial(save_served, folder)


def refresh_calibration(
    client: MlflowClient, project: Project, checkpoint: tuple[str, str, str], model_id: str
) -> None:
    """Put the calibration by its newest result into a logged model, which was logged before it was
    measured.

    Args:
        checkpoint: Stage, key and fingerprint; one that was pruned keeps its own.
        model_id: Its logged model.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        with suppress(ReactError):
            write_calibration(project, project.store.open(*checkpoint), folder)
        for path in folder.iterdir():
            client.log_model_artifact(model_id, str(path), f"artifacts/{FOLDER}")


def save_served(folder: Path, place: Path, model: LoggedModel) -> None:
    """Write an MLflow model to `place`; the exported `folder` is moved into it."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    (folder.parent / "empty" / folder.name).mkdir(parents=True)
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(picture, format="PNG")
    example = pd.DataFrame({"image": [base64.b64encode(picture.getvalue()).decode()]})
    save_model(
        path=str(place),
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={FOLDER: str(folder.parent / "empty" / folder.name)},
        mlflow_model=Model(run_id=model.source_run_id, model_id=model.model_id),
        signature=_signature(),
        input_example=(example, {"top_k": 5, "threshold": 0.0}),
        pip_requirements=[
            *(f"{name}=={metadata.version(name)}" for name in REQUIREMENTS),
            "torch>=2.6,<3",
        ],
    )
    shutil.rmtree(place / "artifacts" / folder.name)
    shutil.move(folder, place / "artifacts" / folder.name)


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        AnyType,
        Array,
        ColSpec,
        DataType,
        ParamSchema,
        ParamSpec,
        Schema,
    )

    answers: dict[str, Any] = {
        "label": DataType.string,
        "confidence": DataType.double,
        "calibrated": DataType.boolean,
        "margin": DataType.double,
        "classes": Array(DataType.string),
        "scores": Array(DataType.double),
        "error": DataType.string,
    }
    return ModelSignature(
        # One column of paths, bytes and base64 has no type of its own.
        Schema([ColSpec(AnyType(), "image", required=False)]),
        Schema([ColSpec(kind, name, required=False) for name, kind in answers.items()]),
        ParamSchema(
            [ParamSpec("top_k", DataType.long, 5), ParamSpec("threshold", DataType.double, 0.0)]
        ),
    )
