"""Messages: sending what a project reports to people.

Apprise sends: its addresses cover webhooks, Slack, mail and a hundred other services, and each
request has a timeout of its own. Does not belong here: runs of Dagster (`assets`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from react_pipeline.extensions.alerts.settings import AlertsConfig
from react_pipeline.installation import install_command
from react_pipeline.project import Project
from react_pipeline.settings import without_secrets
from react_pipeline.store import InputError


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


def send(project: Project, title: str, text: str) -> None:
    """Send a message to all addresses of a project; one that fails holds no other up.

    Raises:
        InputError: Naming what was not sent, and why.
    """
    failed = []
    for name in project.config.section(AlertsConfig).to:
        if problem := problems([name]):
            failed += problem
            continue
        import apprise

        sender = apprise.Apprise(os.environ[name])
        full_title = f"{project.config.project}: {title}"
        if not sender.notify(title=full_title, body=without_secrets(text)):
            failed.append(f"the address in {name} did not accept the message: {title}")
    if failed:
        raise InputError("; ".join(failed))
