"""The command `react-pipeline export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project
from react_pipeline.store import InputError


def export(
    domain: Domain,
    method: Annotated[
        str, typer.Argument(help="A trained method, such as gated-image, or champion.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to create.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export, on the Hub too.")
    ] = False,
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also onnx, onnx-int8 or space; repeat for more."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Identifier of the model's licence, for its card.")
    ] = "other",
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Send the folder to this repository of the Hub."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what --push would send.")
    ] = False,
    config: Config = None,
) -> None:
    """Write a customized model with its model card as a folder of its own, for open_clip or for
    this package; send it to the Hub.

    A method means its current model; `champion` the current champion, which may be an older one.
    """
    project = load_project(config, [domain], [] if method == "champion" else [method])
    from react_pipeline.extensions.hub.export import export as write_folder
    from react_pipeline.extensions.hub.push import Repository, files_of

    if dry_run and not push:
        raise InputError("--dry-run: shows what --push would send; add --push OWNER/NAME")
    formats = form or ()
    repository = (
        Repository.named(push, "space" if "space" in formats else "model") if push else None
    )
    if repository and not dry_run:
        repository.require_writable(overwrite)  # before minutes of work
    folder = write_folder(
        project, domain, method, to, overwrite=overwrite, formats=formats, licence=licence
    )
    console.print(f"{folder}: README.md says how to load it")
    if repository and dry_run:
        files = files_of(folder)
        for name, size in files.items():
            console.print(f"{size:>16,} {name}")
        console.print(f"{sum(files.values()):>16,} bytes for {repository}; nothing was sent\n")
        console.print((folder / "README.md").read_text(encoding="utf-8"))
    elif repository:
        console.print(f"{repository.send(folder, overwrite)}: whole; a new repository is private")
