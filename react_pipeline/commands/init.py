"""The command `react-pipeline init`: your own project in a new folder."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import console
from react_pipeline.project import first_domain, templates, write_project
from react_pipeline.settings import DEFAULT_KIND


def init(
    folder: Annotated[
        Path, typer.Argument(help="The folder to create; files that are in it are kept.")
    ],
    corpus: Annotated[
        str, typer.Option(help=f"Kind of the corpus: {', '.join(templates())}.")
    ] = DEFAULT_KIND,
    encoder: Annotated[
        str,
        typer.Option(
            help="MODEL/PRETRAINED of open_clip, where PRETRAINED is a tag or the path of a "
            "checkpoint; or a complete model, hf-hub:ORGANIZATION/NAME or local-dir:FOLDER. Paths "
            "are relative to the new folder."
        ),
    ] = "ViT-B-32/openai",
    dg: Annotated[
        bool,
        typer.Option(
            "--dg",
            help="Also a project of Dagster's command dg, for assets of your own beside these.",
        ),
    ] = False,
) -> None:
    """Create a project: pipeline.yaml, an example of a domain, a Dagster home, .gitignore."""
    files = write_project(folder, corpus, encoder, dg=dg)
    for path in files:
        console.print(f"wrote {path}")
    kind = templates()[corpus]
    domain = first_domain(folder)
    first = kind.next_step.format(domain=domain)
    console.print(f"next:\n  cd {shlex.quote(str(folder))}\n  {first}")
    if kind.project_files(domain):
        console.print(
            f"  react-pipeline materialize --domain {domain}\n"
            "or run the domains that are there:\n"
            "  react-pipeline demo"
        )
        return
    console.print(
        "  write your class names into domains/birds.yaml\n"
        "  react-pipeline doctor       says what is missing\n"
        "  react-pipeline materialize"
    )
