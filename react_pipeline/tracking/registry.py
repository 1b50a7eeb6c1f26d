"""The registered model `react-<domain>` of MLflow: versions with their verdicts, and the aliases
`champion` and `challenger`.

The store says who is champion; the registry mirrors it and is never read back. An alias that a
person moved is where the store says again after the next verdict. Every function here raises
whatever MLflow raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, Contender, HistoryEntry, Verdict, standing
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

    @property
    def why(self) -> str:
        """The last verdict on it and the reason; "" if it was never judged."""
        verdict = self.tags.get("verdict")
        return f"{verdict}: {self.tags.get('reason', '')}" if verdict else ""


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


def show_champion(client: MlflowClient, project: Project, slug: str) -> None:
    """Write the aliases of a domain's model, and on its versions what verdicts made of them, as the
    last verdict has it.
    """
    shown = None
    while (last := standing(project, slug)[1]) != shown:  # another was decided meanwhile
        if last is not None:
            _show(client, last)
        shown = last


def _show(client: MlflowClient, last: Artifact) -> None:
    verdict = Verdict.read(last)
    name = model_name(verdict.domain)
    versions = {version.checkpoint: version for version in list_versions(client, verdict.domain)}
    if not versions:
        return
    for checkpoint, title in _titles(verdict, last).items():
        version = versions.get(checkpoint)
        # Two decisions may be of one second.
        shown = version and (version.tags.get("verdict"), version.tags.get("decided"))
        if version and shown != (title.name, title.entry.decided):
            _annotate(client, name, version.number, title)
    challenger = verdict.challenger
    if challenger is not None and challenger.is_same(verdict.champion):
        challenger = None
    for alias, contender in (("champion", verdict.champion), ("challenger", challenger)):
        version = versions.get(contender.checkpoint) if contender else None
        if version:
            client.set_registered_model_alias(name, alias, version.number)
        else:  # the base, none, or a version that was deleted
            client.delete_registered_model_alias(name, alias)
    client.set_registered_model_tag(name, VERDICT_TAG, last.fingerprint)


class _Title(NamedTuple):
    """What a decision made of a version; `contender` has the figures of it, if it has any."""

    name: str
    entry: HistoryEntry
    contender: Contender | None = None


def _titles(verdict: Verdict, last: Artifact) -> dict[str, _Title]:
    """Return the latest title of each checkpoint that a decision is about."""
    titles: dict[str, _Title] = {}
    champion = Contender(method=BASE_METHOD)
    for entry in (*verdict.history, verdict.as_history_entry(last)):
        if entry.challenger is not None:
            titles[entry.challenger.checkpoint] = _Title(entry.decision, entry, entry.challenger)
        if not champion.is_same(entry.champion):
            titles[champion.checkpoint] = _Title("former champion", entry)
            name = "champion again" if entry.decision == "rolled back" else "promoted"
            titles[entry.champion.checkpoint] = _Title(name, entry, entry.champion)
        champion = entry.champion
    return titles


def _annotate(client: MlflowClient, name: str, number: str, title: _Title) -> None:
    entry = title.entry
    tags = {
        "verdict": title.name,
        "decided": entry.decided,
        "decided_by": entry.person or entry.by,
        "reason": entry.reason,
    }
    if title.contender is not None and title.contender.top1 is not None:
        tags["top1"] = f"{title.contender.top1:.6f}"
    if title.contender is not None and entry.test is not None:
        tags["gain"] = f"{entry.test.gain:+.4f}"
    for tag, value in tags.items():
        client.set_model_version_tag(name, number, tag, value[:MAX_TAG_CHARS])
    description = f"{title.name} on {entry.decided}: {entry.reason}"[:MAX_TAG_CHARS]
    client.update_model_version(name, number, description=description)
