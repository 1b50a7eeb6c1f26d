"""The commands `react-pipeline predict` and `embed`: models put to use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_error
from react_pipeline.extensions.predict.run_folder import Options, require_output

if TYPE_CHECKING:
    from react_pipeline.extensions.predict.predict import Done
    from react_pipeline.use import Classifier


Model = Annotated[
    str, typer.Argument(metavar="DOMAIN", help="Slug of a domain, or a folder written by `export`.")
]
Source = Annotated[
    str,
    typer.Argument(
        help="A folder, file, quoted pattern, list (.txt), table (.parquet, .csv), or shards "
        "(.tar)."
    ),
]
Which = Annotated[str, typer.Option("--model", help="For a domain: champion, or a method.")]
Column = Annotated[str, typer.Option(help="Column of paths, for a table.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of decoding processes.")]


def predict(
    domain: Model,
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path(
        "predictions"
    ),
    model: Which = "champion",
    top_k: Annotated[int, typer.Option(min=1, help="Classes per picture.")] = 5,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Label pictures below this confidence as unknown.")
    ] = 0.0,
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="Judge all pictures together; give hundreds that show all classes.",
        ),
    ] = False,
    by_shard: Annotated[
        bool, typer.Option("--by-shard", help="One file of labels per shard (.tar); on Spark too.")
    ] = False,
    column: Column = "path",
    workers: Workers = 2,
    config: Config = None,
) -> None:
    """Label pictures: parquet, CSV, a page of contact sheets, and a ledger of what could not be
    used.

    A killed run resumes when the command is given again.
    """
    options = Options(top_k, threshold, transductive, column, workers)
    options, classifier = _prepared(domain, source, output, model, config, options)
    from react_pipeline.extensions.predict.predict import (
        predict_pictures,
        predict_shards,
        shared_arguments,
    )

    if by_shard:
        arguments = shared_arguments(domain, model, config)
        _report(predict_shards(classifier, arguments, source, output, options), output, classifier)
        return
    done = predict_pictures(classifier, source, output, options)
    _report(done, output, classifier)
    console.print(done.calibration)
    console.print(f"open {output / 'index.html'} in a browser")


def embed(
    domain: Model,
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path(
        "vectors"
    ),
    model: Which = "champion",
    column: Column = "path",
    workers: Workers = 2,
    config: Config = None,
) -> None:
    """Write the unit vector of every picture to `vectors.parquet`, resumable as `predict` is."""
    options = Options(column=column, workers=workers)
    options, classifier = _prepared(domain, source, output, model, config, options)
    from react_pipeline.extensions.predict.predict import embed_pictures

    _report(embed_pictures(classifier, source, output, options), output, classifier)


def _prepared(
    domain: str, source: str, output: Path, model: str, config: Path | None, options: Options
) -> tuple[Options, Classifier]:
    from react_pipeline.extensions.predict.pictures import require_source

    require_source(source)
    require_output(output)
    if not Path(domain).is_dir():
        methods = [] if model == "champion" else [model]
        load_project(config, [domain], methods)
    from react_pipeline.use import Classifier, is_exported

    # An exported folder needs no project; where there is one, its rules for pictures from outside
    # hold.
    if config is not None or not is_exported(domain):
        settings = load_project(config).config
        options = replace(
            options,
            max_pixels=settings.corpus.max_pixels,
            distributor=settings.distributor,
        )
    classifier = Classifier.load(domain, model, config=config)
    if classifier.note:
        print_error(f"note: {classifier.note}")
    return options, classifier


def _report(done: Done, output: Path, classifier: Classifier) -> None:
    console.print(f"{done.used:,} pictures by {classifier.origin}: {output}")
    if done.skipped:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in done.skipped.items())
        print_error(f"note: left out: {counts}; see {output / 'ledger.csv'}")
