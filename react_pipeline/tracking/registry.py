"""The registered model `react-<domain>` of MLflow: versions with their verdicts, and the aliases
`champion` and `challenger`.

The store says who is champion; the registry mirrors it and is never read back. An alias that a
person moved is where the store says again after the next verdict. Every function here raises
whatever MLflow raises.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, Contender, Verdict, standing
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact
from react_pipeline.tracking.models import MODEL_TAG, find_versions, model_name, refresh_model
from react_pipeline.tracking.values import MAX_TAG_CHARS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""

_MAX_VERSIONS = 1_000


@dataclass(frozen=True)
class Version:
    """One version of a domain's model, as the registry has it."""

    number: str
    method: str
    checkpoint: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def why(self) -> str:
        """The last verdict on it and the reason; "" if it was never judged."""
        verdict = self.tags.get("verdict")
        return f"{verdict}: {self.tags.get('reason', '')}" if verdict else ""


def list_versions(client: MlflowClient, slug: str) -> list[Version]:
    """Return all versions of a domain, oldest first, with their aliases."""
    model = _find_model(client, slug)
    if model is None:
        return []
    entries = client.search_model_versions(f"name = '{model.name}'", max_results=_MAX_VERSIONS)
    versions = []
    for entry in sorted(entries, key=lambda entry: int(entry.version)):
        number = str(entry.version)
        aliases = sorted(alias for alias, there in model.aliases.items() if str(there) == number)
        tags = dict(entry.tags)
        method, checkpoint = tags.get("method", ""), tags.get("fingerprint", "")
        versions.append(Version(number, method, checkpoint, tuple(aliases), tags))
    return versions


def show_verdict(client: MlflowClient, project: Project, artifact: Artifact) -> None:
    """Write the verdict of a `promotion` on the versions that it is about, and set the aliases as
    the last verdict of the domain says.
    """
    verdict = Verdict.read(artifact)
    slug = verdict.domain
    decided = str(artifact.manifest["created"])
    champion = _version(client, slug, verdict.champion)
    before = verdict.champion_before
    moved = not before.is_same(verdict.champion)
    if moved and (former := _version(client, slug, before)):
        _annotate(client, former, "former champion", verdict, None, decided)
    if champion is not None:  # measured again, it may have a newer calibration
        key = method_key(slug, verdict.champion.method)
        place = CUSTOMIZED_CHECKPOINT, key, verdict.champion.checkpoint
        refresh_model(client, project, place, champion.tags.get(MODEL_TAG))
    if champion is not None and (moved or verdict.decision == "promoted"):
        # For the version that is champion again, a rollback is the opposite of what it is for the
        # version that it replaces.
        rolled_back = verdict.decision == "rolled back"
        title = "champion again" if rolled_back else verdict.decision
        _annotate(client, champion, title, verdict, verdict.champion, decided)
    elif challenger := _challenger(client, verdict):
        _annotate(client, challenger, verdict.decision, verdict, verdict.challenger, decided)
    _set_aliases(client, project, slug)


def _set_aliases(client: MlflowClient, project: Project, slug: str) -> None:
    model = _find_model(client, slug)
    verdict, last = standing(project, slug)
    while model is not None and last is not None:
        champion = _version(client, slug, verdict.champion)
        if champion is not None or verdict.champion.method == BASE_METHOD:
            _set_alias(client, model, CHAMPION, champion)
        else:
            logger.warning(
                "%s: no version is of the champion %s: it was deleted",
                *(model.name, verdict.champion.identity),
            )
        _set_alias(client, model, CHALLENGER, _challenger(client, verdict))
        client.set_registered_model_tag(model.name, VERDICT_TAG, last.fingerprint)
        shown = last.fingerprint
        verdict, last = standing(project, slug)
        if last is not None and last.fingerprint == shown:  # else decided meanwhile
            return
        model = client.get_registered_model(model.name)  # with the aliases that were just set


def _set_alias(
    client: MlflowClient, model: RegisteredModel, alias: str, version: ModelVersion | None
) -> None:
    if version is not None:
        client.set_registered_model_alias(model.name, alias, version.version)
    elif alias in model.aliases:
        client.delete_registered_model_alias(model.name, alias)


def _find_model(client: MlflowClient, slug: str) -> RegisteredModel | None:
    # Searched before it is read: reading what is not there raises, as an unreachable server does.
    name = model_name(slug)
    is_there = client.search_registered_models(f"name = '{name}'")
    return client.get_registered_model(name) if is_there else None


def _challenger(client: MlflowClient, verdict: Verdict) -> ModelVersion | None:
    """Return the version of the challenger, unless it became champion."""
    rival = verdict.challenger
    if rival is None or rival.is_same(verdict.champion):
        return None
    return _version(client, verdict.domain, rival)


def _version(client: MlflowClient, slug: str, contender: Contender) -> ModelVersion | None:
    """Return the version of a contender; None for the base, and where it was deleted."""
    if contender.method == BASE_METHOD:
        return None
    return next(iter(find_versions(client, slug, contender.checkpoint)), None)


def _annotate(
    client: MlflowClient,
    version: ModelVersion,
    title: str,
    verdict: Verdict,
    contender: Contender | None,
    decided: str,
) -> None:
    """Write on a version what a verdict made of it and why, unless a later verdict is there.

    Args:
        title: What it is now, such as `promoted`.
        contender: The version with its figures; None for a former champion, which keeps its own.
    """
    if version.tags.get("decided", "") > decided:
        return
    tags = {
        "verdict": title,
        "decided": decided,
        "decided_by": verdict.person or verdict.by,
        "reason": verdict.reason,
    }
    if contender is not None and contender.top1 is not None:
        tags["top1"] = f"{contender.top1:.6f}"
    if contender is not None and verdict.test is not None:
        tags["gain"] = f"{verdict.test.gain:+.4f}"
    for tag, value in tags.items():
        client.set_model_version_tag(version.name, version.version, tag, value[:MAX_TAG_CHARS])
    description = f"{title} on {decided}: {verdict.reason}"[:MAX_TAG_CHARS]
    client.update_model_version(version.name, version.version, description=description)
