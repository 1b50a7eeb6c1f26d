"""Logged models: one for each checkpoint and for the base, so that MLflow ranks them by what was
measured of them; and the registered model `react-<domain>` with a version of each that was trained,
their verdicts, and the aliases `champion` and `challenger`.

The store says who is champion; the registry mirrors it and is never read back. An alias that a
person moved is where the store says again after the next verdict. Every function here raises
whatever MLflow raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.promotion import Contender, Verdict, standing
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    domain_and_method,
)
from react_pipeline.store import Artifact
from react_pipeline.tracking.datasets import dataset_inputs
from react_pipeline.tracking.package import create_model, refresh_calibration
from react_pipeline.tracking.runs import Runs, only
from react_pipeline.tracking.values import MAX_TAG_CHARS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODEL_STAGES = (CUSTOMIZED_CHECKPOINT, BASE_CHECKPOINT)
"""Stages whose artifacts are models; an artifact with parents of both belongs to the first."""

VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""


def model_name(slug: str) -> str:
    """Return the name of the registered model of a domain."""
    return f"react-{slug}"


def find_models(runs: Runs, fingerprint: str) -> list[LoggedModel]:
    """Return the logged model of a checkpoint; one that a killed process left unfinished does not
    count.
    """
    from mlflow.entities import LoggedModelStatus

    query = f"tags.fingerprint = '{fingerprint}'"
    models = runs.client.search_logged_models([runs.experiment_id], query)
    return [model for model in models if model.status == LoggedModelStatus.READY]


def log_model(runs: Runs, artifact: Artifact, run_id: str) -> None:
    """Log the artifact's model if it is not there; a trained one, unless it is a control, gets a
    version.
    """
    from mlflow.entities import LoggedModelOutput

    client = runs.client
    tags = {"fingerprint": artifact.fingerprint, "path": artifact.address}
    _, method = domain_and_method(artifact.key)
    if method:
        tags["method"] = method
    model = only(
        lambda: find_models(runs, artifact.fingerprint),
        lambda: create_model(runs, artifact, run_id, tags),
        lambda model: client.delete_logged_model(model.model_id),
    )
    if method and not method.endswith(CONTROL_SUFFIX):
        _register(client, model, artifact, run_id, tags)
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:  # unless logging was interrupted after it
        step = int(artifact.counts.get("steps") or 0)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def _register(
    client: MlflowClient, model: LoggedModel, artifact: Artifact, run_id: str, tags: dict[str, str]
) -> None:
    domain, method = domain_and_method(artifact.key)
    name = model_name(domain)
    if not client.search_registered_models(f"name = '{name}'"):
        about = f"CLIP customized to the domain {domain!r} by REACT"
        client.create_registered_model(name, description=about)
    pairs, steps = (int(artifact.counts.get(name) or 0) for name in ("pairs", "steps"))
    query = f"name = '{name}' and tags.fingerprint = '{artifact.fingerprint}'"
    version = only(
        lambda: client.search_model_versions(query),
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


def log_inputs(runs: Runs, artifact: Artifact, run_id: str) -> None:
    """Write which data sets and which model a run used. The model of a result gets the calibration
    that was measured with it.
    """
    from mlflow.entities import LoggedModelInput

    stage = next((stage for stage in MODEL_STAGES if stage in artifact.parents), "")
    models = find_models(runs, artifact.parents[stage])[:1] if stage else []
    inputs = [LoggedModelInput(model.model_id) for model in models]
    runs.client.log_inputs(run_id, dataset_inputs(runs.project, artifact), inputs)
    if stage == CUSTOMIZED_CHECKPOINT and artifact.stage == DOMAIN_RESULTS:
        for model in models:
            refresh_calibration(runs, artifact, model.model_id)


def show_champion(runs: Runs, promotion: Artifact) -> None:
    """Write what a verdict made of a domain's models to their versions, and the aliases of the last
    verdict.
    """
    client, slug = runs.client, promotion.key
    found = client.search_model_versions(f"name = '{model_name(slug)}'")
    versions = {version.tags.get("fingerprint", ""): version for version in found}
    _describe(client, promotion, versions)
    shown = None
    while versions and (last := standing(runs.project, slug)[1]) != shown:  # decided meanwhile
        if last is not None:
            _point(client, last, versions)
        shown = last


def _describe(
    client: MlflowClient, promotion: Artifact, versions: Mapping[str, ModelVersion]
) -> None:
    verdict, decided = Verdict.read(promotion), promotion.manifest["created"]
    champion, challenger = verdict.champion, verdict.challenger
    titles: dict[Contender, str] = {}
    if challenger is not None:
        titles[challenger] = verdict.decision
    if not champion.is_same(verdict.champion_before):
        titles[verdict.champion_before] = "former champion"
    if verdict.decision == "rolled back":
        titles[champion] = "champion again"
    for contender, title in titles.items():
        version = versions.get(contender.checkpoint)
        # A verdict that is logged late leaves alone what a later one has described.
        if version is None or version.tags.get("decided", "") > decided:
            continue
        who = verdict.person or verdict.by
        tags = {"verdict": title, "decided": decided, "decided_by": who, "reason": verdict.reason}
        if contender.top1 is not None:
            tags["top1"] = f"{contender.top1:.6f}"
        if verdict.test is not None and contender == challenger:
            tags["gain"] = f"{verdict.test.gain:+.4f}"
        for tag, value in tags.items():
            client.set_model_version_tag(version.name, version.version, tag, value[:MAX_TAG_CHARS])
        description = f"{title} on {decided}: {verdict.reason}"[:MAX_TAG_CHARS]
        client.update_model_version(version.name, version.version, description)


def _point(client: MlflowClient, last: Artifact, versions: Mapping[str, ModelVersion]) -> None:
    verdict, name = Verdict.read(last), model_name(last.key)
    champion, challenger = verdict.champion, verdict.challenger
    is_rival = challenger is not None and not challenger.is_same(champion)
    for alias, shown in (("champion", champion), ("challenger", challenger if is_rival else None)):
        if version := versions.get(shown.checkpoint) if shown else None:
            client.set_registered_model_alias(name, alias, version.version)
        else:  # the base, none, or a version that was deleted
            client.delete_registered_model_alias(name, alias)
    client.set_registered_model_tag(name, VERDICT_TAG, last.fingerprint)
