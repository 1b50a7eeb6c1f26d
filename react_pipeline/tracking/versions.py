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

FORMER = "former champion"
"""The tag `verdict` of a version that is no longer champion; the tag `reason` still says why it was
promoted.
"""

REPLACED_TAG = "dethroned"
"""The tag that says why a former champion was replaced."""

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
        """The verdict on it and the reason, of a former champion why it was replaced; "" if it was
        never judged.
        """
        verdict = self.tags.get("verdict", "")
        reason = self.tags.get("reason", "")
        return (
            verdict
            and f"{verdict}: {self.tags.get(REPLACED_TAG, reason) if verdict == FORMER else reason}"
        )


def model_name(slug: str) -> str:
    """The registered model of a domain."""
    return f"react-{slug}"


def named(version: str) -> str:
    """How a note speaks of a version."""
    return "no version" if version == NONE else f"version {version}"


def find_model(client: MlflowClient, slug: str) -> RegisteredModel | None:
    """The registered model of a domain, if there is one."""
    # Searched before it is read: reading what is not there raises, as an unreachable server does.
    name = model_name(slug)
    return (
        client.get_registered_model(name)
        if client.search_registered_models(f"name = '{name}'")
        else None
    )


def alias_of(model: RegisteredModel, alias: str) -> str:
    """The version that an alias names, or `NONE`."""
    return str(model.aliases.get(alias, NONE))


def find_version(client: MlflowClient, slug: str, checkpoint: str) -> ModelVersion | None:
    """The version of a checkpoint, if it is registered."""
    found = client.search_model_versions(
        f"name = '{model_name(slug)}' and tags.fingerprint = '{checkpoint}'"
    )
    return found[0] if found else None


def list_versions(client: MlflowClient, slug: str) -> list[Version]:
    """All versions of a domain, oldest first, with their aliases."""
    model = find_model(client, slug)
    if model is None:
        return []
    found = client.search_model_versions(f"name = '{model.name}'", max_results=_MAX_VERSIONS)
    return [
        Version(
            number=str(entry.version),
            method=entry.tags.get("method", ""),
            checkpoint=entry.tags.get("fingerprint", ""),
            aliases=tuple(
                sorted(
                    alias for alias in model.aliases if alias_of(model, alias) == str(entry.version)
                )
            ),
            tags=dict(entry.tags),
        )
        for entry in sorted(found, key=lambda entry: int(entry.version))
    ]


def set_alias(client: MlflowClient, model: RegisteredModel, alias: str, number: str) -> None:
    """Let an alias name a version, or none."""
    if number == alias_of(model, alias):
        return
    if number == NONE:
        client.delete_registered_model_alias(model.name, alias)
    else:
        client.set_registered_model_alias(model.name, alias, number)


def describe(
    client: MlflowClient,
    version: ModelVersion,
    contender: Contender,
    verdict: Verdict,
    promotion: str,
    decided: str,
) -> None:
    """Write the figures of a verdict and its reason on the version it is about, unless a later one
    is there.
    """
    if version.tags.get("decided", "") > decided:
        return
    # For the version that is champion again, a rollback is the opposite of what it is for the one
    # it replaces.
    shown = "champion again" if verdict.decision == "rolled back" else verdict.decision
    tags = {
        **{"verdict": shown, "decided": decided, "decided_by": verdict.by, "promotion": promotion},
        **{
            "reason": verdict.reason,
            "result": contender.result,
            "evaluation_set": contender.evaluation_set,
        },
    }
    if contender.top1 is not None:
        tags |= {"top1": f"{contender.top1:.6f}", "images": str(contender.n)}
    if verdict.test is not None:
        tags |= {
            "gain": f"{verdict.test.gain:+.4f}",
            "interval": f"{verdict.test.low:+.4f} {verdict.test.high:+.4f}",
        }
        tags |= {
            "confidence": f"{verdict.test.confidence:.4f}",
            "compared_with": verdict.champion_before.method,
        }
        tags |= {"judged": str(verdict.test.judged)} if verdict.test.judged else {}
    _write(client, version, tags, f"{shown} on {decided}: {verdict.reason}"[:MAX_TAG_CHARS])
    if REPLACED_TAG in version.tags:
        client.delete_model_version_tag(version.name, version.version, REPLACED_TAG)


def retire(
    client: MlflowClient, version: ModelVersion, verdict: Verdict, promotion: str, decided: str
) -> None:
    """Write on a version why it was replaced, below why it was promoted, unless a later verdict is
    there.
    """
    if version.tags.get("decided", "") > decided:
        return
    tags = {"verdict": FORMER, "decided": decided, "decided_by": verdict.by, "promotion": promotion}
    described, end = (
        version.description or "",
        f"no longer champion since {decided}: {verdict.reason}",
    )
    if not described.endswith(end):
        described = f"{described}\n\n{end}".lstrip()[-MAX_TAG_CHARS:]
    _write(client, version, {**tags, REPLACED_TAG: verdict.reason}, described)


def _write(
    client: MlflowClient, version: ModelVersion, tags: dict[str, str], description: str
) -> None:
    for tag, value in tags.items():
        if value:
            client.set_model_version_tag(version.name, version.version, tag, value[:MAX_TAG_CHARS])
    client.update_model_version(version.name, version.version, description=description)
