"""A checkpoint as an MLflow model that carries itself: its files, signature, example, the wheel of
this package and pinned requirements.

Does not belong here: what it answers (`served`), where it goes (`react_pipeline.tracking`).
"""

from __future__ import annotations

import base64
import io
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from react_pipeline.extensions.hub import write_calibration, write_package
from react_pipeline.extensions.served_models.wheel import pinned_requirements, write_wheel
from react_pipeline.project import Project
from react_pipeline.store import Artifact, ReactError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

FOLDER = "model"
"""Name of the exported folder among the model's `artifacts`."""


def package_model(project: Project, checkpoint: Artifact, directory: Path) -> bool:
    """Write a trained checkpoint below an empty folder, to be used without the store.

    Returns:
        Whether it can be used so: a model whose pairs were pruned has no class names any more.
    """
    (folder := directory / FOLDER).mkdir()
    try:
        write_package(project, checkpoint, folder)
    except ReactError as error:
        logger.warning(
            "%s %s is logged without a model to load: %s", checkpoint.stage, checkpoint.key, error
        )
        return False
    return True


def refresh_calibration(
    client: MlflowClient, project: Project, checkpoint: tuple[str, str, str], model_id: str
) -> None:
    """Put the calibration by its newest result into a logged model, which was logged before it was
    measured.

    Args:
        checkpoint: Stage, key and fingerprint; one that was pruned keeps its own.
        model_id: Its logged model.
    """
    with TemporaryDirectory() as name, suppress(ReactError):
        write_calibration(project, project.store.open(*checkpoint), Path(name))
        for path in Path(name).iterdir():
            client.log_model_artifact(model_id, str(path), f"artifacts/{FOLDER}")


def save_model(directory: Path, place: Path, model: LoggedModel) -> None:
    """Write an MLflow model to `place`; what `package_model` wrote is moved into it."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model as save_pyfunc

    # MLflow would copy gigabytes.
    (empty := directory / "empty" / FOLDER).mkdir(parents=True)
    wheel = write_wheel(directory)
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(picture, format="PNG")
    example = pd.DataFrame({"image": [base64.b64encode(picture.getvalue()).decode()]})
    save_pyfunc(
        path=str(place),
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={FOLDER: str(empty)},
        mlflow_model=Model(run_id=model.source_run_id, model_id=model.model_id),
        signature=_signature(),
        input_example=(example, {"top_k": 5, "threshold": 0.0}),
        code_paths=[str(wheel)],
        pip_requirements=[*pinned_requirements(), f"code/{wheel.name}"],
    )
    shutil.rmtree(place / "artifacts" / FOLDER)
    shutil.move(directory / FOLDER, place / "artifacts" / FOLDER)


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
