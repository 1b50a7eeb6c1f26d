"""The command `react-pipeline advise`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project, print_table
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests
from react_pipeline.stage import ALL

if TYPE_CHECKING:
    from react_pipeline.extensions.advise.advice import Option
    from react_pipeline.extensions.advise.forecast import Measurements
    from react_pipeline.extensions.advise.signs import Signs

LISTED = 10
"""Classes that are listed."""

NAMES_IN_WORDS = {
    "similarity": "similarity of the best pairs",
    "held_out_gain": "gain of gda on held-out pairs",
    "classes": "number of classes",
    "nearness": "cosine of pictures with the nearest pair",
}
"""Signs of a domain."""


def advise(
    domain: Domain,
    pictures: Annotated[
        str | None,
        typer.Option(help="Unlabelled pictures of the domain, a few hundred: a SOURCE of `embed`."),
    ] = None,
    config: Config = None,
) -> None:
    """Say what to expect of each method before anything is trained: classes that the corpus lacks,
    expected gains with intervals, costs, and the command to run next.

    The corpus must be indexed, and the evaluation set of the domain materialized.
    """
    project = load_project(config, [domain])
    if pictures is not None:
        from react_pipeline.extensions.predict import require_source

        require_source(pictures)
    look = Manifests.of(project)  # before anything large is loaded
    for stage, key in (("faiss_index", ALL), ("evaluation_set", domain)):
        fresh(look, stage, key)
    from react_pipeline.extensions.advise.advice import next_command, options_of, recommended
    from react_pipeline.extensions.advise.forecast import Measurements
    from react_pipeline.extensions.advise.signs import encode_unlabelled, signs_of

    vectors = None if pictures is None else encode_unlabelled(project, domain, pictures)
    signs = signs_of(project, domain, vectors)
    _print_classes(signs)
    measured = Measurements.read()
    options = options_of(project, domain, signs, measured)
    _print_options(options)
    _print_calibration(options, signs, measured)
    lacking = int((signs.classes["pairs"] < project.retrieval(domain).min_per_class).sum())
    if lacking > project.retrieval(domain).max_starving_fraction * len(signs.classes):
        console.print(
            f"next: add names or synonyms to {domain}.yaml; {lacking} classes have too few pairs, "
            "and no method trains on so few"
        )
        return
    choice = recommended(options)
    if choice is None:
        console.print(
            f"next: add names to {domain}.yaml, or use another corpus; no method is expected to "
            "gain"
        )
        return
    assert choice.expected is not None  # noqa: S101 - else it is not recommended
    console.print(
        f"recommended: {choice.method}; of the methods that did not lose to their control on "
        f"held-out pairs, its interval has the highest lower end ({_points(choice.expected.low)})"
    )
    console.print(f"next: {next_command(project, domain, choice)}")


def _print_classes(signs: Signs) -> None:
    classes = signs.classes
    unnamed = classes[~classes["named"]]
    console.print(
        f"{len(classes):,} classes, {classes['pairs'].sum():,} pairs; classes without a pair: "
        f"{(classes['pairs'] == 0).sum():,}; classes that no caption names: {len(unnamed):,}"
    )
    if unnamed.empty:
        return
    rows = [
        [
            name,
            f"{pairs:,}",
            near,
            " ".join(str(caption).split())[:60],
        ]
        for name, pairs, near, caption in unnamed[["class", "pairs", "near", "caption"]]
        .head(LISTED)
        .itertuples(index=False)
    ]
    print_table(["not named", "pairs", "similar name", "caption of the best pair"], rows, right=2)
    if (more := len(unnamed) - LISTED) > 0:
        console.print(f"and {more:,} more")
    console.print("add a synonym that captions use: it finds better pairs")


def _print_options(options: Sequence[Option]) -> None:
    from react_pipeline.extensions.advise.forecast import COVERAGE

    rows = []
    for option in options:
        gain = interval = "not measured"
        if (of := option.expected) is not None:
            gain = _points(of.expected)
            interval = f"{_points(of.low)} to {_points(of.high)}"
            if math.isinf(of.high):
                interval = "too few domains"
        held_out = "not measured"
        if (numbers := option.held_out) is not None:
            held_out = f"{_points(numbers.own)}, control {_points(numbers.control)}"
            held_out += ": lost" if numbers.lost else ""
        price = [f"{option.seconds:,.0f} s", f"{option.memory / 1e6:,.0f} MB"]
        rows.append([option.method, gain, interval, held_out, *price])
    columns = [
        "method",
        "expected gain",
        f"{COVERAGE:.0%} interval",
        "held-out pairs",
        "time",
        "memory",
    ]
    print_table(columns, rows, right=len(columns))
    console.print(
        "gains: points of top-1 over the base; time and memory: of one training, without "
        "activations"
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"


def _print_calibration(options: Sequence[Option], signs: Signs, measured: Measurements) -> None:
    from react_pipeline.extensions.advise.forecast import COVERAGE, outside

    console.print(
        "the intervals come from domains of drawings and a weak CLIP; each was left out in turn, "
        f"and {COVERAGE:.0%} of the gains should be inside:"
    )
    for option in options:
        if (of := option.calibration) is not None:
            console.print(
                f"  {option.method}: {of.domains} domains, rank correlation "
                f"{of.rank_correlation:.2f}, {of.coverage:.0%} of gains inside, mean width "
                + ("unbounded" if math.isinf(of.width) else f"{100 * of.width:.1f} points")
            )
    beyond = {
        name
        for option in options
        if option.expected is not None
        for name in outside(measured.domains, option.method, signs.values)
    }
    if beyond:
        console.print(
            "unlike every measured domain in: "
            f"{', '.join(sorted(map(NAMES_IN_WORDS.__getitem__, beyond)))}; trust the intervals "
            "less"
        )
