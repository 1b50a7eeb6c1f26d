"""The command `react-pipeline export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project


def export(
    domain: Domain,
    method: Annotated[
        str, typer.Argument(help="A trained method, such as gated-image, or champion.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to create.")],
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also onnx or onnx-int8; repeat for both."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Identifier of the model's licence, for its card.")
    ] = "other",
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Send the folder to this repository of the Hub."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what the repository holds.")
    ] = False,
    config: Config = None,
) -> None:
    """Write a customized model with its model card as a folder of its own, for open_clip or for
    this package; send it to the Hub.

    A method means its current model; `champion` the current champion, which may be an older one.
    """
    project = load_project(config, [domain], [] if method == "champion" else [method])
    from react_pipeline.extensions.hub import export as hub

    if push:
        hub.create_repository(push, overwrite=overwrite)  # before minutes of work
    folder = hub.export(project, domain, method, to, formats=form or (), licence=licence)
    console.print(f"{folder}: README.md says how to load it")
    if push:
        console.print(f"{hub.upload(folder, push)}: whole; a new repository is private")
