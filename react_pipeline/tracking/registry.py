"""The registered model `react-<domain>` of MLflow: versions with their verdicts, and the aliases
`champion` and `challenger`.

The store says who is champion; the registry mirrors it and is never read back. An alias that a
person moved is where the store says again after the next verdict. Every function here raises
whatever MLflow raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.promotion import Contender, Verdict, standing
from react_pipeline.store import Artifact
from react_pipeline.tracking.models import model_name
from react_pipeline.tracking.values import MAX_TAG_CHARS

if TYPE_CHECKING:
    from mlflow import MlflowClient


VERDICT_TAG = "react.promotion"
"""Tag of the registered model: fingerprint of the verdict that its aliases show."""


@dataclass(frozen=True)
class Version:
    """One version of a domain's model, as the registry has it."""

    number: str
    method: str
    checkpoint: str
    aliases: tuple[str, ...]
    tags: dict[str, str]


def list_versions(client: MlflowClient, slug: str) -> list[Version]:
    """Return all versions of a domain, oldest first, with their aliases."""
    query = f"name = '{model_name(slug)}'"
    models = client.search_registered_models(query)
    if not models:
        return []
    # Versions that are searched for come without their aliases.
    aliases = [(str(number), alias) for alias, number in sorted(models[0].aliases.items())]
    return [
        Version(
            str(entry.version),
            entry.tags.get("method", ""),
            entry.tags.get("fingerprint", ""),
            tuple(alias for number, alias in aliases if number == str(entry.version)),
            dict(entry.tags),
        )
        for entry in sorted(client.search_model_versions(query), key=lambda one: int(one.version))
    ]


def show_champion(client: MlflowClient, project: Project, promotion: Artifact) -> None:
    """Write what a verdict made of a domain's models to their versions, and the aliases of the last
    verdict.
    """
    versions = {one.checkpoint: one for one in list_versions(client, promotion.key)}
    _describe(client, promotion, versions)
    shown = None
    while versions and (last := standing(project, promotion.key)[1]) != shown:  # decided meanwhile
        if last is not None:
            _point(client, last, versions)
        shown = last


def _describe(client: MlflowClient, promotion: Artifact, versions: Mapping[str, Version]) -> None:
    verdict = Verdict.read(promotion)
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
        if version and version.tags.get("decided", "") <= promotion.manifest["created"]:
            _annotate(client, version.number, promotion, contender, title)


def _point(client: MlflowClient, last: Artifact, versions: Mapping[str, Version]) -> None:
    verdict, name = Verdict.read(last), model_name(last.key)
    champion, challenger = verdict.champion, verdict.challenger
    is_rival = challenger is not None and not challenger.is_same(champion)
    for alias, shown in (("champion", champion), ("challenger", challenger if is_rival else None)):
        if version := versions.get(shown.checkpoint) if shown else None:
            client.set_registered_model_alias(name, alias, version.number)
        else:  # the base, none, or a version that was deleted
            client.delete_registered_model_alias(name, alias)
    client.set_registered_model_tag(name, VERDICT_TAG, last.fingerprint)


def _annotate(
    client: MlflowClient, number: str, promotion: Artifact, contender: Contender, title: str
) -> None:
    verdict, decided = Verdict.read(promotion), promotion.manifest["created"]
    name = model_name(verdict.domain)
    tags = {
        "verdict": title,
        "decided": decided,
        "decided_by": verdict.person or verdict.by,
        "reason": verdict.reason,
    }
    if contender.top1 is not None:
        tags["top1"] = f"{contender.top1:.6f}"
    if verdict.test is not None and contender == verdict.challenger:
        tags["gain"] = f"{verdict.test.gain:+.4f}"
    for tag, value in tags.items():
        client.set_model_version_tag(name, number, tag, value[:MAX_TAG_CHARS])
    description = f"{title} on {decided}: {verdict.reason}"[:MAX_TAG_CHARS]
    client.update_model_version(name, number, description=description)
