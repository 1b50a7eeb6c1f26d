"""The commands `react-pipeline elevater ...`: what of the benchmark is there, its domains,
submissions, retrieval.
"""

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, Domain, load_project, print_table
from react_pipeline.lineage import fresh
from react_pipeline.settings import load_domain
from react_pipeline.stage import method_key
from react_pipeline.store import InputError

elevater_app = typer.Typer(
    no_args_is_help=True,
    help="ELEVATER, the benchmark of 20 data sets: data, domains, submissions, retrieval.",
)

Root = Annotated[Path, typer.Argument(help="Folder of the data.")]
Method = Annotated[str, typer.Argument(help="A method, such as base or gated-image.")]


@elevater_app.command()
def check(root: Root) -> None:
    """Show each split of the 20 data sets and ImageNet-1K: whether it is complete and valid, and
    where to get it. Exit code 1 if one is wrong.
    """
    from .readers import COLUMNS, check_splits

    rows = list(check_splits(root))
    print_table(COLUMNS, rows, right=4)
    raise typer.Exit(int(any("wrong" in row for row in rows)))


@elevater_app.command()
def domains(root: Root, config: Config = None) -> None:
    """Write a domain file for each data set, and `elevater.yaml` with the classes of all 20
    together.
    """
    from .domains import write_domains

    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the data")
    for path in write_domains(root, load_project(config).config.domains):
        typer.echo(f"{path}: {len(load_domain(path).classes)} classes")


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
    """Write the leaderboard's zip of published results, with rows in the order of your files."""
    from .submission import write_submission

    artifact = fresh(load_project(config), "benchmark_results", method_key(domain, method))
    names = write_submission(artifact, experiment, to)
    typer.echo(f"{to}: {len(names)} of the 20 data sets: {', '.join(names)}")


@elevater_app.command()
def retrieval(
    captions: Annotated[
        Path, typer.Argument(help="Karpathy's JSON: dataset_flickr30k.json, dataset_coco.json.")
    ],
    images: Annotated[
        Path, typer.Argument(help="The folder that the images' paths are relative to.")
    ],
    domain: Annotated[str, typer.Argument(help="A domain; none: the base.")] = "",
    method: Annotated[str, typer.Argument(help="A method of the domain.")] = "base",
    split: Annotated[str, typer.Option(help="Split of the JSON.")] = "test",
    config: Config = None,
) -> None:
    """Measure recall at 1, 5 and 10: captions found by images, and images by captions."""
    from .image_text import measure_recall, read_karpathy

    if bool(domain) == (method == "base"):
        raise InputError("give a domain and a method, or neither for the base")
    captioned = read_karpathy(captions, split)
    recalls = measure_recall(load_project(config), captioned, images, domain, method)
    counts = f"{len(captioned.images):,} images, {len(captioned.captions):,} captions"
    typer.echo(f"{counts}; left out: {captioned.dropped or 'none'}")
    rows = [
        ["", way, *(f"{100 * value:.1f}" for value in values.values())]
        for way, values in recalls.items()
    ]
    print_table(["", "", *(f"R@{k} %" for k in recalls["image to text"])], rows, right=5)
