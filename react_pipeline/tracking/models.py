"""Logged models: one for each checkpoint and for the base, so that MLflow ranks them by what was
measured of them; and the versions of those that were trained.

Does not belong here: who is champion (`registry`). Every function here raises whatever MLflow
raises.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    domain_and_method,
    method_key,
)
from react_pipeline.store import Artifact
from react_pipeline.tracking.datasets import dataset_inputs
from react_pipeline.tracking.runs import only

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MODEL_STAGES = (CUSTOMIZED_CHECKPOINT, BASE_CHECKPOINT)
"""Stages whose artifacts are models; an artifact with parents of both belongs to the first."""


def model_name(slug: str) -> str:
    """Return the name of the registered model of a domain."""
    return f"react-{slug}"


def find_models(client: MlflowClient, experiment_id: str, fingerprint: str) -> list[LoggedModel]:
    """Return the logged model of a checkpoint; one that a killed process left unfinished does not
    count.
    """
    from mlflow.entities import LoggedModelStatus

    models = client.search_logged_models([experiment_id], f"tags.fingerprint = '{fingerprint}'")
    return [model for model in models if model.status == LoggedModelStatus.READY]


def log_model(
    client: MlflowClient, experiment_id: str, project: Project, artifact: Artifact, run_id: str
) -> None:
    """Log the artifact's model if it is not there; a trained one, unless it is a control, gets a
    version.
    """
    from mlflow.entities import LoggedModelOutput

    tags = {"fingerprint": artifact.fingerprint, "path": artifact.address}
    if artifact.stage == CUSTOMIZED_CHECKPOINT:
        _, tags["method"] = domain_and_method(artifact.key)
    model = only(
        lambda: find_models(client, experiment_id, artifact.fingerprint),
        lambda: _create(client, experiment_id, project, artifact, run_id, tags),
        lambda model: client.delete_logged_model(model.model_id),
    )
    if artifact.stage == CUSTOMIZED_CHECKPOINT and not tags["method"].endswith(CONTROL_SUFFIX):
        _register(client, model, artifact, run_id, tags)
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:  # unless logging was interrupted after it
        step = int(artifact.counts.get("steps") or 0)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def _create(
    client: MlflowClient,
    experiment_id: str,
    project: Project,
    artifact: Artifact,
    run_id: str,
    tags: dict[str, str],
) -> LoggedModel:
    # As mlflow.pyfunc.log_model and mlflow.create_external_model do, without their global state
    # (active run, address).
    from mlflow.models.utils import get_external_mlflow_model_spec
    from mlflow.utils.file_utils import local_file_uri_to_path

    from react_pipeline.extensions import served_models

    domain, method = domain_and_method(artifact.key)
    params = {"domain": domain, "method": method} if method else {"method": "base"}
    # On the store's disk, for links.
    directory = project.store.root / ".mlflow_model" / artifact.fingerprint
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        is_packaged = bool(method) and served_models.package_model(project, artifact, directory)
        model = client.create_logged_model(
            experiment_id,
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
            served_models.save_model(directory, place, model)
        else:
            place.mkdir(parents=True)
            get_external_mlflow_model_spec(model).save(str(place / "MLmodel"))
        if not is_local:
            client.log_model_artifacts(model.model_id, str(place))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return client.finalize_logged_model(model.model_id, "READY")


def _register(
    client: MlflowClient, model: LoggedModel, artifact: Artifact, run_id: str, tags: dict[str, str]
) -> None:
    domain, method = domain_and_method(artifact.key)
    name = model_name(domain)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(
            name, description=f"CLIP customized to the domain {domain!r} by REACT"
        )
    pairs, steps = (int(artifact.counts.get(name) or 0) for name in ("pairs", "steps"))
    version = only(
        lambda: client.search_model_versions(
            f"name = '{name}' and tags.fingerprint = '{artifact.fingerprint}'"
        ),
        # `models:/<id>` would be looked up at MLflow's global tracking URI, which need not be this
        # one.
        lambda: client.create_model_version(
            name,
            model.artifact_location,
            run_id,
            tags={**tags, "model_id": model.model_id},
            # Until the first verdict on it.
            description=f"{method}, trained in {steps:,} steps on {pairs:,} retrieved pairs",
            await_creation_for=0,
            model_id=model.model_id,
        ),
        lambda version: client.delete_model_version(name, version.version),
    )
    # The link from the page of models to the registry.
    registered = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": registered})


def log_inputs(
    client: MlflowClient, experiment_id: str, project: Project, artifact: Artifact, run_id: str
) -> dict[str, str]:
    """Write which data sets and which model a run used; returns what its metrics were measured
    on, as MLflow's `Metric` names it. The model of a result gets the calibration that was measured
    with it.
    """
    from mlflow.entities import LoggedModelInput

    from react_pipeline.extensions import served_models

    stage = next((stage for stage in MODEL_STAGES if stage in artifact.parents), "")
    checkpoint = artifact.parents.get(stage, "")
    models = find_models(client, experiment_id, checkpoint)[:1] if stage else []
    datasets = dataset_inputs(project, artifact)
    client.log_inputs(run_id, datasets, [LoggedModelInput(model.model_id) for model in models])
    source = {}
    for measured_on in datasets[:1]:
        source["dataset_name"] = measured_on.dataset.name
        source["dataset_digest"] = measured_on.dataset.digest
    for model in models:
        source["model_id"] = model.model_id
        if stage == CUSTOMIZED_CHECKPOINT and artifact.stage == DOMAIN_RESULTS:
            key = method_key(model.params["domain"], model.params["method"])
            place = stage, key, checkpoint
            served_models.refresh_calibration(client, project, place, model.model_id)
    return source
