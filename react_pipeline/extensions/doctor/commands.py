"""The command `react-pipeline doctor`."""

from __future__ import annotations

import typer

from react_pipeline.commands import Config, print_table


def doctor(config: Config = None) -> None:
    """Show what this machine and this project have, what is missing, and how to get it."""
    from react_pipeline.extensions.doctor.diagnosis import diagnose

    findings = diagnose(config)
    print_table(
        ["what", "state", "detail", "what to do"],
        [[f.what, f.state, f.detail, f.remedy] for f in findings],
    )
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)
