"""The registered model `react-<domain>` of MLflow: versions with their verdicts, and the aliases
`champion` and `challenger`.

The store says who is champion; the registry mirrors it and is never read back. An alias that a
person moved is where the store says again after the next verdict. Every function here raises
whatever MLflow raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.promotion import Contender, Verdict, standing
from react_pipeline.store import Artifact
from react_pipeline.tracking.models import model_name
from react_pipeline.tracking.values import MAX_TAG_CHARS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""


def list_versions(client: MlflowClient, slug: str) -> list[ModelVersion]:
    """Return all versions of a domain's model, oldest first; their tags name `method` and
    `fingerprint` of the checkpoint.
    """
    versions = client.search_model_versions(f"name = '{model_name(slug)}'")
    return sorted(versions, key=lambda version: int(version.version))


def show_champion(client: MlflowClient, project: Project, promotion: Artifact) -> None:
    """Write what a verdict made of a domain's models to their versions, and the aliases of the last
    verdict.
    """
    found = list_versions(client, promotion.key)
    versions = {version.tags.get("fingerprint", ""): version for version in found}
    _describe(client, promotion, versions)
    shown = None
    while versions and (last := standing(project, promotion.key)[1]) != shown:  # decided meanwhile
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
