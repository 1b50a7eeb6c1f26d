"""The commands `react-pipeline elevater ...`: what of the benchmark is there, its domains,
submissions, retrieval.
"""

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    load_project,
    print_error,
    print_table,
    printable,
)
from react_pipeline.lineage import fresh
from react_pipeline.settings import load_domain
from react_pipeline.stage import method_key
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET

elevater_app = typer.Typer(
    no_args_is_help=True,
    help="ELEVATER, the benchmark of 20 data sets: data, domains, submissions, retrieval.",
)

SPLITS = ("train", "val", "test")

Root = Annotated[
    Path, typer.Argument(help="Folder of the data, in a layout that `list` and `check` know.")
]
Method = Annotated[str, typer.Argument(help="A method, such as base or gated-image.")]


@elevater_app.command("list")
def list_datasets() -> None:
    """List the 20 data sets and ImageNet-1K: classes, images, metric."""
    rows = []
    for entry in (*DATASETS.values(), IMAGENET):
        sizes = [f"{entry.sizes[name]:,}" if name in entry.sizes else "–" for name in SPLITS]
        counts = [entry.num_classes, entry.num_templates, *sizes]
        rows.append([entry.name, entry.title, *counts, entry.metric])
    columns = ["data set", "title", "classes", "templates", *SPLITS, "metric"]
    print_table(columns, rows, right=7)


@elevater_app.command()
def check(
    root: Root, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show which data sets are complete and valid, and where to get the others. Exit code 1 if one
    is wrong.
    """
    from .check import check_root

    reports = check_root(root)
    if json:
        typer.echo(dumps([asdict(report) for report in reports], indent=2))
    else:
        rows = []
        for report in reports:
            counts = [
                f"{report.found.get(split, 0):,} of {report.expected[split]:,}"
                if split in report.expected
                else "–"
                for split in SPLITS
            ]
            rows.append([report.name, report.state, *counts])
        print_table(["data set", "state", *SPLITS], rows)
        for report in reports:
            for text in (*report.problems, *(f"note: {note}" for note in report.notes)):
                for line in f"{report.name} ({report.state}): {text}".split("\n"):
                    typer.echo(printable(line))
    raise typer.Exit(1 if any(report.state == "wrong" for report in reports) else 0)


@elevater_app.command()
def domains(
    root: Root,
    into: Annotated[
        Path | None, typer.Option(help="Folder of domain files. Default: the project's.")
    ] = None,
    config: Config = None,
) -> None:
    """Write a domain file for each data set, and `elevater.yaml` with the classes of all 20
    together.
    """
    from .domains import write_domains

    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the data")
    directory = into or load_project(config).config.domains
    for path in write_domains(root, directory):
        domain = load_domain(path)
        typer.echo(f"{path}: {len(domain.classes)} classes")


@elevater_app.command()
def submit(
    domain: Domain,
    method: Method,
    to: Annotated[Path, typer.Option(help="The zip to write.")],
    experiment: Annotated[
        str, typer.Option(help="zero_shot, linear_probe_5, finetuning_full, ...")
    ] = "zero_shot",
    config: Config = None,
) -> None:
    """Write the leaderboard's zip of published results. Exit code 1 if data sets or seeds are
    missing.
    """
    from .results import collect_submission

    artifact = fresh(load_project(config), "benchmark_results", method_key(domain, method))
    problems = collect_submission(artifact, experiment, to)
    for problem in problems:
        print_error(f"error: {problem}")
    state = "incomplete" if problems else "complete"
    typer.echo(f"{to}: {state}; its rows are in the order of your files")
    raise typer.Exit(1 if problems else 0)


@elevater_app.command()
def retrieval(
    captions: Annotated[
        Path,
        typer.Argument(
            help="Karpathy's JSON (Flickr30k, COCO), or a CSV with the columns image and caption."
        ),
    ],
    images: Annotated[
        Path, typer.Argument(help="The folder that the images' paths are relative to.")
    ],
    domain: Annotated[str, typer.Argument(help="A domain, or `base`.")] = "base",
    method: Annotated[str | None, typer.Argument(help="A method of the domain.")] = None,
    split: Annotated[str, typer.Option(help="Split, for a JSON.")] = "test",
    captions_per_image: Annotated[
        int, typer.Option(min=1, help="Use this many captions of each image.")
    ] = 5,
    config: Config = None,
) -> None:
    """Measure recall at 1, 5 and 10: captions found by images, and images by captions."""
    from .image_text import measure_recall, read_caption_csv, read_karpathy

    if (domain == "base") != (method is None):
        raise InputError("give `base`, or a domain and a method")
    if captions.suffix.lower() == ".json":
        captioned = read_karpathy(captions, split, captions_per_image)
    else:
        captioned = read_caption_csv(captions, captions_per_image)
    project = load_project(config)
    recalls = measure_recall(project, captioned, images, domain, method or "base")
    counts = f"{len(captioned.images):,} images, {len(captioned.captions):,} captions"
    typer.echo(f"{counts}; left out: {captioned.dropped or 'none'}")
    rows = [
        ["", way, *(f"{100 * value:.1f}" for value in values.values())]
        for way, values in recalls.items()
    ]
    print_table(["", "", *(f"R@{k} %" for k in recalls["image to text"])], rows, right=5)
