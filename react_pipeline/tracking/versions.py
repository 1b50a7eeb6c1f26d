"""The versions of `react-<domain>` in MLflow's registry: finding them, and writing on them why they
are what they are.

Does not belong here: which alias goes where (`registry`). Every function here raises whatever
MLflow raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from react_pipeline.promotion import Contender, Verdict
from react_pipeline.tracking.values import MAX_TAG_CHARS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

NONE = "none"
"""The version of an alias that is not there."""

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


def model_name(slug: str) -> str:
    """The registered model of a domain."""
    return f"react-{slug}"


def in_words(version: str) -> str:
    """How a note speaks of a version."""
    return "no version" if version == NONE else f"version {version}"


def find_model(client: MlflowClient, slug: str) -> RegisteredModel | None:
    """The registered model of a domain, if there is one."""
    # Searched before it is read: reading what is not there raises, as an unreachable server does.
    name = model_name(slug)
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    return client.get_registered_model(name)


def alias_of(model: RegisteredModel, alias: str) -> str:
    """The version that an alias names, or `NONE`."""
    return str(model.aliases.get(alias, NONE))


def find_version(client: MlflowClient, slug: str, checkpoint: str) -> ModelVersion | None:
    """The version of a checkpoint, if it is registered."""
    versions = client.search_model_versions(
        f"name = '{model_name(slug)}' and tags.fingerprint = '{checkpoint}'"
    )
    return versions[0] if versions else None


def list_versions(client: MlflowClient, slug: str) -> list[Version]:
    """All versions of a domain, oldest first, with their aliases."""
    model = find_model(client, slug)
    if model is None:
        return []
    entries = client.search_model_versions(f"name = '{model.name}'", max_results=_MAX_VERSIONS)
    versions = []
    for entry in sorted(entries, key=lambda entry: int(entry.version)):
        number = str(entry.version)
        aliases = sorted(alias for alias in model.aliases if alias_of(model, alias) == number)
        tags = dict(entry.tags)
        method, checkpoint = tags.get("method", ""), tags.get("fingerprint", "")
        versions.append(Version(number, method, checkpoint, tuple(aliases), tags))
    return versions


def set_alias(client: MlflowClient, model: RegisteredModel, alias: str, number: str) -> None:
    """Let an alias name a version, or none."""
    if number == alias_of(model, alias):
        return
    if number == NONE:
        client.delete_registered_model_alias(model.name, alias)
    else:
        client.set_registered_model_alias(model.name, alias, number)


def annotate(
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
