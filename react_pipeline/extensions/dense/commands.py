"""The commands `react-pipeline dense ...`: sets of detection and segmentation, which are there."""

from typing import Annotated

import typer

from react_pipeline.commands import (
    Config,
    load_project,
    print_table,
)
from react_pipeline.store import InputError

from .settings import DenseConfig, dense_sets

dense_app = typer.Typer(no_args_is_help=True, help="Detection and segmentation: sets and data.")


@dense_app.command("list")
def list_sets() -> None:
    """List the known sets: task, classes, images, where they are available. Others are listed in
    `dense.own`.
    """
    rows = []
    for entry in dense_sets().values():
        counts = [len(entry.class_names), f"{entry.expected:,}"]
        rows.append([entry.name, entry.task, *counts, entry.truth, entry.homepage])
    print_table(["set", "task", "classes", "images", "truth", "homepage"], rows, right=4)


@dense_app.command()
def check(
    domain: Annotated[
        str, typer.Argument(help="A domain, for your own sets whose paths contain `{domain}`.")
    ] = "",
    config: Config = None,
) -> None:
    """Read all images and truth of the configured sets: what is right, wrong, missing. Exit code 1
    if one is wrong.
    """
    from tqdm import tqdm

    from react_pipeline.labelled import Unavailable

    from .sets import MapImages, read_dense_set

    project = load_project(config)
    dense = project.config.section(DenseConfig)
    if dense.root is None or not dense.sets(domain):
        raise InputError(
            f"{project.path}: dense.root, and dense.datasets or dense.own, are not set"
        )
    if domain or "{domain}" in str(dense.own):
        project.domain(domain)  # one that is not there is an error, with a list of those that are
    rows = []
    for entry in dense.sets(domain):
        try:
            images = read_dense_set(dense.root, entry)
            for position in tqdm(range(len(images)), entry.name, disable=None, leave=False):
                image = images.image(position, project.config.corpus.max_pixels)
                if isinstance(images, MapImages):
                    images.label_map(position, image.size)
            count = f"{len(images):,}" + (f" of {entry.expected:,}" if entry.expected else "")
            counted = getattr(images, "skipped", {}).items()
            skipped = ", ".join(f"{number} {reason}" for reason, number in counted)
            facts = ["ok", count, len(images.class_names), skipped]
        except Unavailable as error:
            facts = ["missing", "", "", error.reason]
        except InputError as error:
            facts = ["wrong", "", "", str(error)]
        rows.append([entry.name, entry.task, *facts])
    print_table(
        ["set", "task", "", "images", "classes", "boxes left out or cut; what is wrong"], rows
    )
    raise typer.Exit(int(any(row[2] == "wrong" for row in rows)))
