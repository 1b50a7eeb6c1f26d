"""The commands `react-pipeline labels ...`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project
from react_pipeline.store import InputError, write_atomically

labels_app = typer.Typer(
    no_args_is_help=True, help="Predictions as folders of classes, and labels that come back."
)


@labels_app.command("export")
def export_labels(
    predictions: Annotated[Path, typer.Argument(help="A folder written by `predict`.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to create.")],
) -> None:
    """Copy predicted pictures into one folder per class, to correct them or to train on them."""
    from react_pipeline.extensions.labels.export import export_predictions

    done = export_predictions(predictions, to)
    left_out = f"; {done.left_out:,} unknown ones are left out" if done.left_out else ""
    console.print(f"{to}: {done.written:,} pictures{left_out}")


@labels_app.command("import")
def import_labels(
    domain: Domain,
    source: Annotated[Path, typer.Argument(help="A folder with one folder of pictures per class.")],
    to: Annotated[Path, typer.Option("--to", help="The table to write.")] = Path("labels.csv"),
    config: Config = None,
) -> None:
    """Turn folders of classes into a table that a domain is evaluated on."""
    from react_pipeline.labelled import read_folder

    project = load_project(config)
    if to.exists():
        raise InputError(f"{to}: already exists; choose another --to")
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name one with a folder per class")
    images, _ = read_folder(source, project.domain(domain))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class"])
    root = source.resolve()
    writer.writerows((root / path, label) for path, label in images.to_numpy())
    write_atomically(to, text.getvalue())
    console.print(
        f"{to}: {len(images):,} labelled pictures; next, in the file of {domain}: "
        f"evaluation: {{name: corrected, kind: manifest, path: {to.resolve()}}}"
    )
