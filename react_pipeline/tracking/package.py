"""A checkpoint as an MLflow model that carries itself: its files, signature, example, this package
and pinned requirements.

The name of this package is on no index, so a tool that installs requirements by name could get a
stranger's package.

Does not belong here: what it answers (`served`), where it goes (`models`).
"""

from __future__ import annotations

import base64
import io
import logging
import re
import shutil
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
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, domain_and_method
from react_pipeline.store import Artifact, ReactError, temporary_in

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

    from react_pipeline.tracking.runs import Runs

logger = logging.getLogger(__name__)

FOLDER = "model"
"""Name of the exported folder among the model's `artifacts`."""
ANSWER = ("label", "confidence", "calibrated", "margin", "classes", "scores", "error")
"""Columns that a model answers, a row for each image."""
NEEDED = ("mlflow", "pandas")
"""What a served model needs besides the requirements of this package without extras."""


def create_model(runs: Runs, artifact: Artifact, run_id: str, tags: dict[str, str]) -> None:
    """Log a checkpoint as a model; the base, which has no classes, by its name alone.

    `mlflow.pyfunc.log_model` and `mlflow.create_external_model` do so with global state (active
    run, address).
    """
    from mlflow.models.utils import get_external_mlflow_model_spec
    from mlflow.utils.file_utils import local_file_uri_to_path

    domain, method = domain_and_method(artifact.key)
    params = {"domain": domain, "method": method} if method else {"method": "base"}
    # On the store's disk, for links; `prune` sweeps what a killed process leaves.
    with TemporaryDirectory(dir=temporary_in(runs.project.store.root).parent) as name:
        directory = Path(name)
        is_packaged = bool(method) and _write_package(runs.project, artifact, directory)
        model = runs.client.create_logged_model(
            runs.experiment_id,
            "-".join(params.values()),
            run_id,
            tags if is_packaged else {**tags, "mlflow.model.isExternal": "true"},
            params,
            model_type="react_classifier" if is_packaged else "open_clip",
        )
        is_local = model.artifact_location.startswith("file:")
        place = directory / "saved"
        if is_local:  # written where it stays, for it may hold gigabytes
            place = Path(local_file_uri_to_path(model.artifact_location))
        if is_packaged:
            _save(directory, place, model)
        else:
            place.mkdir(parents=True, exist_ok=True)
            get_external_mlflow_model_spec(model).save(str(place / "MLmodel"))
        if not is_local:
            runs.client.log_model_artifacts(model.model_id, str(place))
    runs.client.finalize_logged_model(model.model_id, "READY")


def _write_package(project: Project, checkpoint: Artifact, directory: Path) -> bool:
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


def _save(directory: Path, place: Path, model: LoggedModel) -> None:
    """Write an MLflow model to `place`; what `_write_package` wrote is moved into it."""
    from mlflow.models import Model, infer_signature
    from mlflow.pyfunc import save_model as save_pyfunc

    # MLflow would copy gigabytes.
    (empty := directory / "empty" / FOLDER).mkdir(parents=True)
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
        code_paths=write_code(directory),
        pip_requirements=pinned_requirements(),
    )
    shutil.rmtree(place / "artifacts" / FOLDER)
    shutil.move(directory / FOLDER, place / "artifacts" / FOLDER)


def write_code(folder: Path) -> list[str]:
    """Write the metadata of this package, which name its entry points, and return what MLflow
    copies to carry it: the installed package, also an editable one, and these.
    """
    distribution = metadata.distribution(DISTRIBUTION)
    stem = f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}"
    (about := folder / f"{stem}.dist-info").mkdir()
    # In a clone these may be those of an egg, which have another name.
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    (about / "METADATA").write_text(text, encoding="utf-8")
    entry_points = distribution.read_text("entry_points.txt") or ""
    (about / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    return [str(Path(react_pipeline.__file__).parent), str(about)]


def pinned_requirements() -> list[str]:
    """Return the packages that a served model needs, in the versions that are installed here.

    A local version, such as the `+cpu` of torch, is left out: it is on no index, and the machine
    that serves may have a GPU.
    """
    listed = metadata.requires(DISTRIBUTION) or []
    names = {re.split(r"[^\w.-]", line)[0] for line in listed if "extra ==" not in line}
    versions = {name: metadata.version(name) for name in sorted({*names, *NEEDED})}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def refresh_calibration(runs: Runs, result: Artifact, model_id: str) -> None:
    """Put the calibration by its newest result into a logged model, which was logged before it was
    measured; that of a checkpoint that was pruned stays as it is.
    """
    from react_pipeline.extensions.hub import write_calibration

    with TemporaryDirectory() as name, suppress(ReactError):
        checkpoint = result.open_parent(CUSTOMIZED_CHECKPOINT)
        write_calibration(runs.project, checkpoint, Path(name))
        for path in Path(name).iterdir():
            runs.client.log_model_artifact(model_id, str(path), f"artifacts/{FOLDER}")
