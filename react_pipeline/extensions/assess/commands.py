"""The command `react-pipeline assess`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project, print_error

if TYPE_CHECKING:
    from react_pipeline.extensions.assess.assessment import Drift


def assess(
    domain: Domain,
    predictions: Annotated[Path, typer.Argument(help="A folder written by `predict`.")],
    model: Annotated[
        str, typer.Option("--model", help="The model of the run: champion, method or version.")
    ] = "champion",
    no_class: Annotated[
        Path | None, typer.Option(help="A folder of pictures that show no class, to measure with.")
    ] = None,
    config: Config = None,
) -> None:
    """Say which pictures of a run show no class, which show several, and whether they differ from
    the labelled images that the model was measured on.

    Thresholds are chosen on one half of the held-out pairs, and measured on the other.
    """
    from react_pipeline.extensions.assess.assessment import assess_run

    project = load_project(config)
    done = assess_run(project, domain, predictions, model, no_class)
    other, several = done.other, done.several
    console.print(
        f"other: {done.others:,} of {done.pictures:,} pictures score below {other.threshold:.3f}; "
        f"AUROC {other.auroc:.3f}, {other.kept:.0%} of held-out pairs are kept and "
        f"{other.refused:.0%} of random pairs refused ({other.pairs:,} pairs)"
    )
    if other.auroc_no_class is not None:
        console.print(
            f"other: AUROC {other.auroc_no_class:.3f} against the {other.no_class:,} pictures of "
            f"{no_class}"
        )
    console.print(
        f"several: {several.mean_labels:.2f} classes a picture of those that the run lists; F1 "
        f"{several.f1:.3f} with thresholds, {several.f1_of_first:.3f} with the first class alone "
        f"({several.pairs:,} held-out pairs)"
    )
    if several.mean_average_precision is None:
        console.print("several: no mAP, there are no labelled images")
    else:
        console.print(f"several: mAP {several.mean_average_precision:.3f} on labelled images")
    for drift in done.drifts:
        _print_drift(drift)
    if not done.drifts:
        console.print("drift: not measured, there are no labelled images")
    console.print(f"{predictions / 'assessed.parquet'}: path, other, labels")


def _print_drift(drift: Drift) -> None:
    text = (
        f"{drift.name} of the run and of {drift.labelled:,} labelled images: KS distance "
        f"{drift.distance:.3f}, p {drift.p_value:.2g}"
    )
    if drift.is_beyond_noise:
        print_error(
            f"warning: drift: {text}; what was measured on labelled images may not hold here"
        )
    else:
        console.print(f"drift: {text}; within noise")
