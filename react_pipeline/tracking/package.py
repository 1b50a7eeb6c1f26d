"""A checkpoint as an MLflow model that carries itself: its files, signature, example, the wheel of
this package and pinned requirements.

The name of this package is on no index, so a tool that installs requirements by name could get a
stranger's package.

Does not belong here: what it answers (`served`), where it goes (`models`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import shutil
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image

import react_pipeline
from react_pipeline.installation import DISTRIBUTION
from react_pipeline.project import Project
from react_pipeline.store import Artifact, ReactError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

logger = logging.getLogger(__name__)

FOLDER = "model"
"""Name of the exported folder among the model's `artifacts`."""
TAG = "py3-none-any"
ANSWER = ("label", "confidence", "calibrated", "margin", "classes", "scores", "error")
"""Columns that a model answers, a row for each image."""
NEEDED = ("mlflow", "pandas")
"""What a served model needs besides the requirements of this package without extras."""


def package_model(project: Project, checkpoint: Artifact, directory: Path) -> bool:
    """Write a trained checkpoint below an empty folder, to be used without the store.

    Returns:
        Whether it can be used so: a model whose pairs were pruned has no class names any more.
    """
    from react_pipeline.extensions.hub import write_package

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
    from react_pipeline.extensions.hub import write_calibration

    with TemporaryDirectory() as name, suppress(ReactError):
        write_calibration(project, project.store.open(*checkpoint), Path(name))
        for path in Path(name).iterdir():
            client.log_model_artifact(model_id, str(path), f"artifacts/{FOLDER}")


def save_model(directory: Path, place: Path, model: LoggedModel) -> None:
    """Write an MLflow model to `place`; what `package_model` wrote is moved into it."""
    from mlflow.models import Model, infer_signature
    from mlflow.pyfunc import save_model as save_pyfunc

    # MLflow would copy gigabytes.
    (empty := directory / "empty" / FOLDER).mkdir(parents=True)
    wheel = write_wheel(directory)
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(picture, format="PNG")
    example = pd.DataFrame({"image": [base64.b64encode(picture.getvalue()).decode()]})
    # MLflow lets bytes pass as strings.
    answer = pd.DataFrame([("fox", 0.9, True, 0.5, ["fox"], [0.9], "")], columns=ANSWER)
    options = {"top_k": 5, "threshold": 0.0}
    save_pyfunc(
        path=str(place),
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={FOLDER: str(empty)},
        mlflow_model=Model(run_id=model.source_run_id, model_id=model.model_id),
        signature=infer_signature(example, answer, options),
        input_example=(example, options),
        code_paths=[str(wheel)],
        pip_requirements=[*pinned_requirements(), f"code/{wheel.name}"],
    )
    shutil.rmtree(place / "artifacts" / FOLDER)
    shutil.move(directory / FOLDER, place / "artifacts" / FOLDER)


def write_wheel(folder: Path) -> Path:
    """Write the installed package, also an editable one, as a wheel; the same files give the same
    bytes.
    """
    distribution = metadata.distribution(DISTRIBUTION)
    stem = f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}"
    info = f"{stem}.dist-info"
    root = Path(react_pipeline.__file__).parent
    files = {
        f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in _files(root)
    }
    # In a clone the metadata may be those of an egg, which have another name.
    about = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    texts = {"METADATA": about, "entry_points.txt": distribution.read_text("entry_points.txt")}
    texts["WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n"
    files |= {f"{info}/{name}": text.encode() for name, text in texts.items() if text}
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    place = folder / f"{stem}-{TAG}.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return place


def pinned_requirements() -> list[str]:
    """Return the packages that a served model needs, in the versions that are installed here.

    A local version, such as the `+cpu` of torch, is left out: it is on no index, and the machine
    that serves may have a GPU.
    """
    listed = metadata.requires(DISTRIBUTION) or []
    names = {re.split(r"[^\w.-]", line)[0] for line in listed if "extra ==" not in line}
    versions = {name: metadata.version(name) for name in sorted({*names, *NEEDED})}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _files(root: Path) -> list[Path]:
    """Return the files of the package; in a clone some of its folders are links."""
    walk = os.walk(root, followlinks=True)
    found = [Path(folder, name) for folder, _, names in walk for name in names]
    return sorted(path for path in found if path.suffix != ".pyc")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
