"""Messages: what a project reports to people, and sending it.

Apprise sends: its addresses cover webhooks, Slack, mail and a hundred other services, and each
request has a timeout of its own. Does not belong here: runs and ticks of Dagster (`assets`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from react_pipeline.extensions.alerts.settings import AlertsConfig
from react_pipeline.installation import install_command
from react_pipeline.project import Project
from react_pipeline.promotion import standing
from react_pipeline.stage import PROMOTION
from react_pipeline.store import CorruptArtifact

DECISIONS = {
    "promoted": "is champion",
    "challenger": "is ahead and held back",
    "incomparable": "cannot be compared",
    "rolled back": "was rolled back to",
}
"""Decisions on a champion that people hear of, in words."""

MAX_TRIES = 60
"""A message that could not be sent is sent again in so many ticks, then it is given up."""


@dataclass(frozen=True)
class Message:
    """One message to one address.

    Attributes:
        to: The environment variable with the address.
        tries: How often it could not be sent so far.
    """

    to: str
    title: str
    text: str
    tries: int = 0

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def decisions(project: Project) -> dict[str, str]:
    """Fingerprint of the last decision of each domain."""
    store = project.store
    return {slug: store.pointer(PROMOTION, slug) or "" for slug in store.keys(PROMOTION)}


def decision_texts(
    project: Project, before: Mapping[str, str], now: Mapping[str, str]
) -> Iterator[str]:
    """One line for each new decision that people hear of."""
    for slug, fingerprint in now.items():
        if before.get(slug) == fingerprint:
            continue
        try:
            verdict, _ = standing(project, slug)
        except CorruptArtifact as error:
            yield f"{slug}: {error}"
            continue
        words = DECISIONS.get(verdict.decision)
        if words:
            contender = verdict.challenger if verdict.decision == "challenger" else verdict.champion
            yield f"{slug}: {(contender or verdict.champion).method} {words}: {verdict.reason}"


def disk_text(project: Project) -> str:
    """That the disk of the store is nearly full; "" if it is not."""
    root = project.store.root
    if not root.exists():
        return ""
    usage = shutil.disk_usage(root)
    fraction = usage.free / usage.total
    if fraction >= project.config.section(AlertsConfig).free_disk_fraction:
        return ""
    return (
        f"{root}: {usage.free / 1e9:,.1f} GB ({100 * fraction:.1f}%) are free; run "
        "`react-pipeline prune`, or make room"
    )


def problems(names: Sequence[str]) -> list[str]:
    """Why these addresses cannot be used."""
    if not names:
        return []
    try:
        import apprise
    except ModuleNotFoundError:
        return [f"apprise is not installed: {install_command('alerts')}"]
    texts = []
    for name in names:
        address = os.environ.get(name, "")
        if not address:
            texts.append(f"the environment variable {name} is not set")
        elif apprise.Apprise.instantiate(address) is None:
            texts.append(f"the environment variable {name} holds no address that Apprise knows")
    return texts


def send(message: Message) -> bool:
    """Send a message; False if that was not possible, whatever the reason."""
    try:
        import apprise
    except ModuleNotFoundError:
        return False
    sender = apprise.Apprise()
    address = os.environ.get(message.to, "")
    if not address or not sender.add(address):
        return False
    return bool(sender.notify(title=message.title, body=message.text))


def send_all(messages: Sequence[Message]) -> list[Message]:
    """Send messages; returns those that must be sent again.

    An address that refuses one is left alone until the next tick, so that one that hangs holds no
    other up.
    """
    unsent = []
    refusing: set[str] = set()
    for message in messages:
        if message.to in refusing or not send(message):
            refusing.add(message.to)
            if message.tries < MAX_TRIES:
                unsent.append(replace(message, tries=message.tries + 1))
    return unsent
