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
    no_args_is_help=True, help="Predictions for other tools, and labels that come back."
)

MAX_NAMED = 20
"""Unknown classes that an error lists."""

Format = Annotated[
    str, typer.Option("--format", help="coco, fiftyone, imagefolder, label-studio or yolo.")
]


@labels_app.command("export")
def export_labels(
    predictions: Annotated[Path, typer.Argument(help="A folder written by `predict`.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to create.")],
    form: Format = "label-studio",
) -> None:
    """Write predictions and their pictures as a tool for labelling or training reads them."""
    from react_pipeline.extensions.labels.export import export_predictions

    done = export_predictions(predictions, form, to)
    left_out = f"; {done.left_out:,} unknown ones are left out" if done.left_out else ""
    console.print(f"{to}: {done.written:,} pictures{left_out}")


@labels_app.command("import")
def import_labels(
    domain: Domain,
    source: Annotated[Path, typer.Argument(help="The file or folder that the tool exported.")],
    to: Annotated[Path, typer.Option("--to", help="The table to write.")] = Path("labels.csv"),
    form: Format = "label-studio",
    config: Config = None,
) -> None:
    """Turn labels into a table that a domain is evaluated on."""
    from react_pipeline.extensions.labels.readers import READERS, read_labels
    from react_pipeline.labelled import classes_by_name, normal, read_manifest

    project = load_project(config)
    if form not in READERS:
        raise InputError(f"--format {form!r}: choose from {', '.join(READERS)}")
    if to.exists():
        raise InputError(f"{to}: already exists; choose another --to")
    labels, contradicted = read_labels(form, source)
    known = classes_by_name(project.domain(domain))
    if unknown := sorted({label for label in labels.values() if normal(label) not in known}):
        raise InputError(
            f"{source}: {domain} has no class {', '.join(map(repr, unknown[:MAX_NAMED]))}"
            + (f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else "")
            + f"; add classes or synonyms to {domain}.yaml, or change these labels in the tool"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class"])
    writer.writerows((str(path.resolve()), label) for path, label in sorted(labels.items()))
    part = to.with_name(f".part-{to.name}")
    try:
        write_atomically(part, text.getvalue())
        read_manifest(part, project.domain(domain))
        part.rename(to)
    except InputError as error:
        raise InputError(str(error).replace(str(part), str(source))) from error
    finally:
        part.unlink(missing_ok=True)
    for path in contradicted:
        console.print(f"{path}: left out, its labels contradict each other")
    console.print(
        f"{to}: {len(labels):,} labelled pictures; next, in the file of {domain}: "
        f"evaluation: {{name: corrected, kind: manifest, path: {to.resolve()}}}"
    )
