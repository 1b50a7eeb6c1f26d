"""The command `react-pipeline demo`."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from react_pipeline.commands import (
    Config,
    console,
    load_project,
    materialize_assets,
    print_start_page,
)
from react_pipeline.project import CONFIG_VARIABLE, write_files
from react_pipeline.store import InputError

from .extension import demo_files

DEMO_DOMAINS = ("things", "activities", "objects", "symbols")
"""The first is one that the corpus covers; its results are printed before the others are made."""


def demo(config: Config = None) -> None:
    """Run everything on a small real corpus made of installed packages: four domains, base,
    customized and control.

    The first domain's results are printed before the others are made; stop there if they are
    enough. A folder that has no pipeline.yaml gets the demo's. A second time nothing is computed
    again. Killed in between, it resumes.
    """
    if config is None and not os.environ.get(CONFIG_VARIABLE) and write_demo_project(Path.cwd()):
        console.print(f"wrote pipeline.yaml and domains/ to {Path.cwd()}")
    project = load_project(config)
    if project.config.corpus.kind != "demo":
        raise InputError(
            f"{project.path}: corpus.kind is {project.config.corpus.kind!r}, the demo needs `demo`"
        )
    first, *others = DEMO_DOMAINS
    for slugs in ([first], others):
        if materialize_assets(project, "*", slugs, project.config.methods):
            raise typer.Exit(1)
        print_start_page(project, slugs if slugs == [first] else DEMO_DOMAINS)
    console.print(f"{'':9}  react-pipeline init      FOLDER starts a project of your own")


def write_demo_project(folder: Path) -> list[Path]:
    """Make a folder the demo's project: `pipeline.yaml`, which is written last, and `domains/`.

    Returns:
        What was written; nothing if the folder has a `pipeline.yaml`.

    Raises:
        InputError: If the folder cannot be written.
    """
    if (folder / "pipeline.yaml").exists():
        return []
    return write_files(folder, demo_files())
