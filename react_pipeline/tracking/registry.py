"""The registry: the aliases of MLflow's model `react-<domain>`, and what a person changed of them
by hand.

The store says who is champion; the registry mirrors it. A verdict waits in the queue with its
artifact, so a server that is down only delays it. A tag of the registered model remembers where
this module last put the alias `champion`. If it is elsewhere, a person moved it: the alias is left
alone, and the next decision takes the person's choice over (`hand_edit`). Only a person's command
overrules it. The alias `challenger` belongs to the pipeline and is always set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, Contender, RegistryEdit, Verdict, standing
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact, ReactError
from react_pipeline.tracking.models import MODEL_TAG, refresh_model
from react_pipeline.tracking.versions import (
    NONE,
    alias_of,
    annotate,
    find_model,
    find_version,
    in_words,
    model_name,
    set_alias,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_TAG = "react.champion"
"""Tag of the registered model: the version that this module last made champion, or `NONE`."""

VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""

PAGE_MODELS = 1_000
"""Registered models in one answer."""


def hand_edit(client: MlflowClient, slug: str) -> RegistryEdit | None:
    """What a person did to the alias `champion` since it was last written; None: nothing."""
    model = find_model(client, slug)
    if model is None or not _was_moved(model):
        return None
    there = alias_of(model, CHAMPION)
    if there == NONE:
        return RegistryEdit(None)
    tags = client.get_model_version(model.name, there).tags
    return RegistryEdit(there, tags.get("method", ""), tags.get("fingerprint", ""))


def edited_by_hand(client: MlflowClient) -> set[str]:
    """The domains whose alias `champion` a person moved or removed since it was last written."""
    edited = set[str]()
    token = None
    while True:
        of_domains = f"name LIKE '{model_name('%')}'"
        page = client.search_registered_models(of_domains, PAGE_MODELS, page_token=token)
        edited |= {model.name.removeprefix(model_name("")) for model in page if _was_moved(model)}
        if not (token := page.token):
            return edited


def _was_moved(model: RegisteredModel) -> bool:
    return alias_of(model, CHAMPION) != model.tags.get(CHAMPION_TAG, NONE)


def apply_verdict(
    client: MlflowClient,
    project: Project,
    artifact: Artifact,
    log: Callable[[str, str, str], object],
) -> list[str]:
    """Write the verdict of a `promotion`; returns what a person should read.

    A verdict that another one has followed is written on its versions only: the aliases show the
    last. `log` is called with stage, key and fingerprint of a checkpoint that has no version yet.
    """
    verdict = Verdict.read(artifact)
    notes = list[str]()
    champion = _version(client, project, verdict.domain, verdict.champion, log, notes)
    if champion is not None:  # measured again, it may have a newer calibration
        place = _place(verdict.domain, verdict.champion)
        refresh_model(client, project, place, champion.tags.get(MODEL_TAG))
    challenger = None
    rival = verdict.challenger
    if rival is not None and not rival.is_same(verdict.champion):
        challenger = _version(client, project, verdict.domain, rival, log, notes)
    decided = str(artifact.manifest["created"])
    _write_reasons(client, verdict, champion, challenger, decided)
    model = find_model(client, verdict.domain)
    last = standing(project, verdict.domain)[1]
    if model is None or last is None or last.fingerprint != artifact.fingerprint:
        return notes
    if champion is not None or verdict.champion.method == BASE_METHOD:
        _move_champion(client, model, verdict, _number(champion), notes)
    set_alias(client, model, CHALLENGER, _number(challenger))
    client.set_registered_model_tag(model.name, VERDICT_TAG, artifact.fingerprint)
    return notes


def _write_reasons(
    client: MlflowClient,
    verdict: Verdict,
    champion: ModelVersion | None,
    challenger: ModelVersion | None,
    decided: str,
) -> None:
    """Write the verdict on the versions of the former champion and of the model that it is
    about.
    """
    moved = not verdict.champion_before.is_same(verdict.champion)
    if moved and verdict.champion_before.method != BASE_METHOD:
        former = find_version(client, verdict.domain, verdict.champion_before.checkpoint)
        if former is not None:
            annotate(client, former, "former champion", verdict, None, decided)
    if champion is not None and (moved or verdict.decision == "promoted"):
        # For the version that is champion again, a rollback is the opposite of what it is for the
        # version that it replaces.
        rolled_back = verdict.decision == "rolled back"
        title = "champion again" if rolled_back else verdict.decision
        annotate(client, champion, title, verdict, verdict.champion, decided)
    elif challenger is not None:
        annotate(client, challenger, verdict.decision, verdict, verdict.challenger, decided)


def _number(version: ModelVersion | None) -> str:
    return NONE if version is None else str(version.version)


def _move_champion(
    client: MlflowClient, model: RegisteredModel, verdict: Verdict, number: str, notes: list[str]
) -> None:
    there = alias_of(model, CHAMPION)
    if there not in (model.tags.get(CHAMPION_TAG, NONE), number):
        moved = f"{model.name}: a person had moved the alias `champion` to {in_words(there)}"
        if verdict.by != "person":
            notes.append(
                f"{moved}, and this verdict wants {in_words(number)}; it stays where it is until "
                f"the next decision takes it over, or `react-pipeline models promote "
                f"{verdict.domain} METHOD` overrules it"
            )
            return
        notes.append(f"{moved}; the command of a person moved it to {in_words(number)}")
    set_alias(client, model, CHAMPION, number)
    client.set_registered_model_tag(model.name, CHAMPION_TAG, number)


def _place(slug: str, contender: Contender) -> tuple[str, str, str]:
    return CUSTOMIZED_CHECKPOINT, method_key(slug, contender.method), contender.checkpoint


def _version(
    client: MlflowClient,
    project: Project,
    slug: str,
    contender: Contender,
    log: Callable[[str, str, str], object],
    notes: list[str],
) -> ModelVersion | None:
    """The version of a contender, registered now if the log of its checkpoint still waits; None for
    the base.
    """
    if contender.method == BASE_METHOD:
        return None
    if version := find_version(client, slug, contender.checkpoint):
        return version
    what = f"{contender.method} {contender.checkpoint}"
    place = _place(slug, contender)
    try:
        project.store.open(*place)
    except ReactError as error:
        notes.append(f"{model_name(slug)}: {what} is in no version, and {error}")
        return None
    log(*place)
    if version := find_version(client, slug, contender.checkpoint):
        return version
    notes.append(
        f"{model_name(slug)}: no version is of {what}, though it was logged: a person deleted it"
    )
    return None
