"""Logged models: one for each checkpoint and for the base, so that MLflow ranks them by what was
measured of them.

Does not belong here: who is champion (`registry`). Every function here raises whatever MLflow
raises.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from react_pipeline.extension import CORE, brought, tell, tolerate
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    STAGES,
    domain_and_method,
)
from react_pipeline.store import Artifact, ReactError
from react_pipeline.tracking.queue import outages
from react_pipeline.tracking.versions import find_model, find_version, model_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel

MODEL_TAG = "model_id"
"""Tag of a version with the id of its logged model, which a registry in a database does not return.
"""
MODEL_STAGES = (CUSTOMIZED_CHECKPOINT, BASE_CHECKPOINT)
"""Stages whose artifacts are models; an artifact with parents of both belongs to the first."""


class MetricSource(NamedTuple):
    """The model and the data set of a metric, under the names that MLflow's metrics use."""

    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


def model_of(artifact: Artifact) -> tuple[str, str, str] | None:
    """Stage, key and fingerprint of the model that an artifact was made with; None if with no
    model.
    """
    for stage in MODEL_STAGES:
        if stage in artifact.parents:
            return stage, ALL if stage == BASE_CHECKPOINT else artifact.key, artifact.parents[stage]
    return None


def find_model_id(client: MlflowClient, experiment_id: str, fingerprint: str) -> str | None:
    """Id of the logged model of a checkpoint; one that a killed process left unfinished does not
    count.
    """
    from mlflow.entities import LoggedModelStatus

    models = client.search_logged_models([experiment_id], f"tags.fingerprint = '{fingerprint}'")
    return next(
        (str(model.model_id) for model in models if model.status == LoggedModelStatus.READY), None
    )


def log_model(
    client: MlflowClient, experiment_id: str, project: Project, artifact: Artifact, run_id: str
) -> str:
    """The id of the artifact's logged model, made now if it is not there; of a trained one with a
    version.
    """
    from mlflow.entities import LoggedModelOutput

    tags = {"fingerprint": artifact.fingerprint, "path": artifact.address}
    if artifact.stage == CUSTOMIZED_CHECKPOINT:
        _, tags["method"] = domain_and_method(artifact.key)
    model_id = find_model_id(client, experiment_id, artifact.fingerprint)
    if model_id is None:
        model_id = str(_create(client, experiment_id, project, artifact, run_id, tags).model_id)
    if artifact.stage == CUSTOMIZED_CHECKPOINT:
        _register(client, client.get_logged_model(model_id), artifact, run_id, tags)
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:  # unless logging was interrupted after it
        client.log_outputs(
            run_id, [LoggedModelOutput(model_id, int(artifact.counts.get("steps") or 0))]
        )
    return model_id


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

    domain, method = domain_and_method(artifact.key)
    params = {"domain": domain, "method": method} if method else {"method": "base"}
    name = "-".join(params.values())
    # On the store's disk, for links; one at a time, so that what a killed process left belongs to
    # no other one.
    directory = project.store.root / ".mlflow_model"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir()
        packages = brought(lambda one: one.package_model(project, artifact, directory), *outages())
        extension, save = next((one for one in packages if one[1]), (CORE.name, None))
        tags = tags if save else {**tags, "mlflow.model.isExternal": "true"}
        kind = "react_classifier" if save else "open_clip"
        model = client.create_logged_model(
            experiment_id, name, run_id, tags, params, model_type=kind
        )
        # A local folder is written where it stays, for it may hold gigabytes.
        local = str(model.artifact_location).startswith("file:")
        place = (
            Path(local_file_uri_to_path(model.artifact_location)) if local else directory / "saved"
        )
        is_saved = False
        if save:
            with tolerate(extension, ReactError, *outages()):
                save(place, model)
                is_saved = True
        if not is_saved:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            get_external_mlflow_model_spec(model).save(str(place / "MLmodel"))
        if not local:
            client.log_model_artifacts(model.model_id, str(place))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return client.finalize_logged_model(model.model_id, "READY")


def refresh_model(
    client: MlflowClient,
    project: Project,
    checkpoint: tuple[str, str, str] | None,
    model_id: str | None,
) -> None:
    """Bring a logged model up to date, after a result; nothing where there is none."""
    if checkpoint is not None and model_id is not None:
        tell(lambda one: one.refresh_model(client, project, checkpoint, model_id), *outages())


def _register(
    client: MlflowClient, model: LoggedModel, artifact: Artifact, run_id: str, tags: dict[str, str]
) -> None:
    domain, _ = domain_and_method(artifact.key)
    name = model_name(domain)
    if find_model(client, domain) is None:
        client.create_registered_model(
            name, description=f"CLIP customized to the domain {domain!r} by REACT"
        )
    if find_version(client, domain, artifact.fingerprint) is None:
        # `models:/<id>` would be looked up at MLflow's global tracking URI, which need not be this
        # one.
        version = client.create_model_version(
            name,
            model.artifact_location,
            run_id,
            tags={**tags, MODEL_TAG: model.model_id},
            description=_described(artifact),
            await_creation_for=0,
            model_id=model.model_id,
        )
        # What the page of models links to the registry by.
        registered = json.dumps([{"name": name, "version": str(version.version)}])
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": registered})


def _described(artifact: Artifact) -> str:
    """Describes a version until the first verdict on it."""
    _, method = domain_and_method(artifact.key)
    kind = "random" if method.endswith(CONTROL_SUFFIX) else "retrieved"
    pairs, steps = (int(artifact.counts.get(name) or 0) for name in ("pairs", "steps"))
    return f"{method}, trained in {steps:,} steps on {pairs:,} {kind} pairs"


def datasets_of(artifact: Artifact) -> list[DatasetInput]:
    """The sets of pairs and of labelled images that an artifact was made of, or is."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    domain, _ = domain_and_method(artifact.key)
    root = artifact.address.rsplit("/", 3 + artifact.key.count("/"))[0]
    datasets = []
    for stage, fingerprint in {**artifact.parents, artifact.stage: artifact.fingerprint}.items():
        row = STAGES.get(stage)
        if row is None or row.scope != "domain" or row.gathers:
            continue
        source = json.dumps({"uri": f"{root}/{stage}/{domain}/{fingerprint}"})
        dataset = Dataset(f"{stage}-{domain}", fingerprint, "local", source)
        context = [InputTag("mlflow.data.context", use) for use in _uses(stage)]
        datasets.append(DatasetInput(dataset, context))
    return datasets


def _uses(stage: str) -> list[str]:
    """Return what a set is for, as MLflow calls it: models are trained on it, or measured with
    it.
    """
    readers = {"training": CUSTOMIZED_CHECKPOINT, "evaluation": DOMAIN_RESULTS}
    return [use for use, reader in readers.items() if stage in STAGES[reader].parents]
