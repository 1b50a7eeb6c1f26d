"""The command `react-pipeline test-alerts`."""

from __future__ import annotations

import typer

from react_pipeline.commands import Config, console, load_project
from react_pipeline.extensions.alerts.settings import AlertsConfig
from react_pipeline.store import InputError


def test_alerts(config: Config = None) -> None:
    """Send a test message to every address of `alerts.to`. Exit code 1 if one was not accepted."""
    from react_pipeline.extensions.alerts.messages import Message, problems, send

    project = load_project(config)
    names = project.config.section(AlertsConfig).to
    if not names:
        raise InputError(
            f"{project.path}: alerts.to names no environment variable; add `alerts: {{to: "
            "[TEAM_ALERTS]}`, and put an address such as slack://... into that variable"
        )
    if faults := problems(names):
        raise InputError("; ".join(faults))
    title = f"{project.config.project}: test"
    failed = False
    for name in names:
        accepted = send(Message(name, title, "Alerts of react_pipeline arrive here."))
        console.print(f"{name}: {'sent' if accepted else 'not accepted'}")
        failed |= not accepted
    raise typer.Exit(1 if failed else 0)
