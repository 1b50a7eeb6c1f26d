"""The registry: the aliases of MLflow's model `react-<domain>`, and what a person changed of them
by hand.

The store says who is champion; the registry mirrors it. A verdict waits in the queue until the
registry shows it, so a server that is down delays it and nothing is written twice. A tag of the
registered model remembers where this module last put the alias `champion`. If it is elsewhere, a
person moved it: the alias is left alone, and the next decision takes the person's choice over
(`hand_edit`). Only a person's command overrules it. The alias `challenger` belongs to the pipeline
and is always set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from react_pipeline.project import Project
from react_pipeline.promotion import BASE, Contender, RegistryEdit, Verdict, standing
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, ReactError
from react_pipeline.tracking.models import MODEL_TAG
from react_pipeline.tracking.package import refresh_calibration
from react_pipeline.tracking.versions import (
    NONE,
    alias_of,
    describe,
    find_model,
    find_version,
    model_name,
    named,
    retire,
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


def entry_of(artifact: Artifact) -> dict[str, Any]:
    """The entry of a verdict in the queue. It holds all that it says: the store may be pruned."""
    verdict = Verdict.read(artifact).model_dump(mode="json", exclude={"history"})
    return {
        "fingerprint": artifact.fingerprint,
        "decided": str(artifact.manifest["created"]),
        "verdict": verdict,
    }


def hand_edit(client: MlflowClient, slug: str) -> RegistryEdit | None:
    """What a person did to the alias `champion` since it was last written; None: nothing."""
    model = find_model(client, slug)
    if model is None:
        return None
    there = alias_of(model, CHAMPION)
    if there == model.tags.get(CHAMPION_TAG, NONE):
        return None
    if there == NONE:
        return RegistryEdit(None)
    tags = client.get_model_version(model.name, there).tags
    return RegistryEdit(there, tags.get("method", ""), tags.get("fingerprint", ""))


def apply_verdict(
    client: MlflowClient,
    project: Project,
    entry: dict[str, Any],
    log: Callable[[str, str, str], object],
) -> list[str]:
    """Write one verdict; returns what a person should read.

    One that another verdict has followed is written on its versions only: the aliases show the
    last. `log` is called with stage, key and fingerprint of a checkpoint that has no version yet.
    """
    verdict, promotion, decided = (
        Verdict.model_validate(entry["verdict"]),
        entry["fingerprint"],
        entry["decided"],
    )
    notes: list[str] = []
    champion = _version(client, project, verdict.domain, verdict.champion, log, notes)
    if champion is not None:  # measured again, it may have a newer calibration
        place = _place(verdict.domain, verdict.champion)
        refresh_calibration(client, project, place, champion.tags.get(MODEL_TAG))
    rival = verdict.challenger
    if rival is None or rival.is_same(verdict.champion):
        challenger = None
    else:
        challenger = _version(client, project, verdict.domain, rival, log, notes)
    moved = not verdict.champion_before.is_same(verdict.champion)
    if moved and verdict.champion_before.method != BASE:
        former = find_version(client, verdict.domain, verdict.champion_before.checkpoint)
        if former is not None:
            retire(client, former, verdict, promotion, decided)
    if champion is not None and (moved or verdict.decision == "promoted"):
        describe(client, champion, verdict.champion, verdict, promotion, decided)
    elif challenger is not None and rival is not None:
        describe(client, challenger, rival, verdict, promotion, decided)
    model = find_model(client, verdict.domain)
    last = standing(project, verdict.domain)[1]
    if model is None or last is None or last.fingerprint != promotion:
        return notes
    if champion is not None or verdict.champion.method == BASE:
        _move_champion(
            client, model, verdict, NONE if champion is None else str(champion.version), notes
        )
    set_alias(client, model, CHALLENGER, NONE if challenger is None else str(challenger.version))
    client.set_registered_model_tag(model.name, VERDICT_TAG, promotion)
    return notes


def _move_champion(
    client: MlflowClient, model: RegisteredModel, verdict: Verdict, wanted: str, notes: list[str]
) -> None:
    there = alias_of(model, CHAMPION)
    if there not in (model.tags.get(CHAMPION_TAG, NONE), wanted):
        moved = f"{model.name}: a person had moved the alias `champion` to {named(there)}"
        if verdict.by != "person":
            notes.append(
                f"{moved}, and this verdict wants {named(wanted)}; it stays where it is until the "
                f"next decision takes it over, or `react-pipeline models promote {verdict.domain} "
                "METHOD` overrules it"
            )
            return
        notes.append(f"{moved}; the command of a person moved it to {named(wanted)}")
    set_alias(client, model, CHAMPION, wanted)
    client.set_registered_model_tag(model.name, CHAMPION_TAG, wanted)


def _place(slug: str, contender: Contender) -> tuple[str, str, str]:
    return "customized_checkpoint", method_key(slug, contender.method), contender.checkpoint


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
    if contender.method == BASE:
        return None
    if found := find_version(client, slug, contender.checkpoint):
        return found
    what = f"{contender.method} {contender.checkpoint}"
    place = _place(slug, contender)
    try:
        project.store.open(*place)
    except ReactError as error:
        notes.append(f"{model_name(slug)}: {what} is in no version, and {error}")
        return None
    log(*place)
    if found := find_version(client, slug, contender.checkpoint):
        return found
    notes.append(
        f"{model_name(slug)}: no version is of {what}, though it was logged: a person deleted it"
    )
    return None
