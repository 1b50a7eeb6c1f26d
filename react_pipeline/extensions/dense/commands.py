"""The command `react-pipeline dense check`: which data of detection and segmentation are there."""

from typing import Annotated

import typer

from react_pipeline.commands import Config, load_project, print_table
from react_pipeline.store import InputError

from .settings import DenseConfig

dense_app = typer.Typer(no_args_is_help=True, help="Detection and segmentation: data.")


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
    project = load_project(config)
    dense = project.config.section(DenseConfig)
    if dense.root is None or not dense.sets(domain):
        raise InputError(
            f"{project.path}: dense.root, and dense.datasets or dense.own, are not set"
        )
    if domain or "{domain}" in str(dense.own):
        project.domain(domain)  # one that is not there is an error, with a list of those that are
    from react_pipeline.labelled import Unavailable

    from .sets import MapImages, read_dense_set

    rows = []
    for entry in dense.sets(domain):
        try:
            images = read_dense_set(dense.root, entry)
            for position in range(len(images)):
                image = images.image(position, project.config.corpus.max_pixels)
                if isinstance(images, MapImages):
                    images.label_map(position, image.size)
            counted = ", ".join(f"{number} {reason}" for reason, number in images.skipped.items())
            facts = ["ok", f"{len(images):,}", len(images.class_names), counted]
        except Unavailable as error:
            facts = ["missing", "", "", error.reason]
        except InputError as error:
            facts = ["wrong", "", "", str(error)]
        rows.append([entry.name, entry.task, *facts])
    print_table(["set", "task", "", "images", "classes", "boxes left out; what is wrong"], rows)
    raise typer.Exit(int(any(row[2] == "wrong" for row in rows)))
