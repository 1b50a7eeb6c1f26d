"""Messages: sending what a project reports to people, and to whom (`alerts:` of `pipeline.yaml`).

Apprise sends: its addresses cover webhooks, Slack, mail and a hundred other services, and each
request has a timeout of its own. Does not belong here: runs of Dagster (`assets`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from react_pipeline.installation import install_command
from react_pipeline.project import Project
from react_pipeline.settings import Section, without_secrets
from react_pipeline.store import InputError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _is_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "write the name of an environment variable that holds the address; an address holds "
            "a secret, which does not belong into this file"
        )
    return name


class AlertsConfig(Section):
    """Who hears of runs that failed for good.

    Attributes:
        to: Environment variables, each with an address as Apprise writes them.
    """

    to: tuple[Annotated[str, AfterValidator(_is_variable)], ...] = ()


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
