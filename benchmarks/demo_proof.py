"""What the demo's gain is: two arms, each with two controls, over seeds, with 95% intervals.

Run `.venv/bin/python -m benchmarks.demo_proof`. Each arm is a project in `--work`.

Arms: `without the same drawing` keeps out of training every pair that shows an emoji of a class, by
whatever artist; `as it is` keeps them. Both train with the demo's recipe, which was chosen on other
domains (`benchmarks/choosing`). Controls: `random` pairs, drawn for each seed and domain, and
`shuffled` captions (`benchmarks.controls`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.controls import (
    GATED,
    Correct,
    demo_domain,
    gain,
    measure,
    shuffled,
    write_project,
)
from benchmarks.pages import make_parser, show_section
from react_pipeline.labelled import read_images
from react_pipeline.lineage import fresh
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project

DOMAINS = ("activities", "objects", "symbols")
ARMS = {"without the same drawing": "exclude", "as it is": "keep"}
KINDS = {"base": "base", GATED: GATED, f"{GATED} random": "random", f"{GATED} shuffled": "shuffled"}
"""What is measured, and its heading."""
WORK = Path(".react/proof")
BEGIN, END = "<!-- proof:begin -->", "<!-- proof:end -->"

Figures = Mapping[str, Mapping[str, Correct]]
"""Which images of each domain are right, by kind."""


def project_of(work: Path, arm: str, methods: Sequence[str], seeds: int) -> Project:
    """Write the project of an arm."""
    domains = {slug: demo_domain(slug) for slug in DOMAINS}
    return write_project(work.resolve() / ARMS[arm], methods, seeds, ARMS[arm], domains)


def to_markdown(arm: str, figures: Figures) -> str:
    """Return the table of an arm: means over seeds, and gains with intervals."""
    rows = []
    for label, slugs in [*((slug, [slug]) for slug in figures), ("mean", [*figures])]:
        of = {kind: [figures[slug][kind] for slug in slugs] for kind in KINDS}
        means = [f"{100 * np.mean([one.mean() for one in of[kind]]):.1f}" for kind in KINDS]
        gains = [gain(of[GATED], of[other]) for other in ("base", f"{GATED} random")]
        rows.append([label, *means, *gains])
    return markdown_table([arm, *KINDS.values(), "over base", "over random"], rows).rstrip()


def named_classes(project: Project, slug: str) -> NDArray[np.bool_]:
    """Whether each evaluation image, sorted by name, is of a class whose name is in a caption that
    was retrieved for it, (N,).
    """
    pairs = pd.read_parquet(fresh(project, "retrieved_set", slug).file("pairs.parquet"))
    says = [
        name.lower() in caption.lower()
        for name, caption in zip(pairs["class"], pairs["caption"], strict=True)
    ]
    classes = read_images(fresh(project, "evaluation_set", slug)).sort_values("name")["class"]
    return classes.isin(set(pairs.loc[says, "class"])).to_numpy()


def split_table(named: Mapping[str, NDArray[np.bool_]], figures: Figures) -> str:
    """Return top-1 on the classes that retrieved captions name, and on the others."""
    kinds, rows = [*KINDS][:3], []
    for slug, of_named in named.items():
        for label, images in (("named", of_named), ("not named", ~of_named)):
            means = [f"{100 * figures[slug][kind][:, images].mean():.1f}" for kind in kinds]
            rows.append([slug, label, int(images.sum()), *means])
    heads = ["domain", "class in a retrieved caption", "images", *(KINDS[kind] for kind in kinds)]
    return markdown_table(heads, rows).rstrip()


def draw(figures: Mapping[str, Figures], path: Path) -> None:
    """Draw bars of mean top-1 by domain: base, then method and controls of each arm; whiskers are
    one standard deviation over seeds.
    """
    shades = {
        GATED: ("#08519c", "#a63603"),
        f"{GATED} random": ("#6baed6", "#fd8d3c"),
        f"{GATED} shuffled": ("#c6dbef", "#fdd0a2"),
    }
    bars = [("base", [*figures][0], "base", "#888888")]
    for number, arm in enumerate(figures):
        bars += [(kind, arm, f"{arm}: {KINDS[kind]}", shades[kind][number]) for kind in shades]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.9 / len(bars)
    for number, (kind, arm, label, colour) in enumerate(bars):
        values = [100 * of_domain[kind].mean(axis=1) for of_domain in figures[arm].values()]
        values.append(np.mean(values, axis=0))
        places = np.arange(len(values)) + (number - (len(bars) - 1) / 2) * width
        spread = [value.std(ddof=min(1, len(value) - 1)) for value in values]
        means = [value.mean() for value in values]
        drawn = axes.bar(places, means, width * 0.94, yerr=spread, label=label, color=colour)
        if kind in ("base", GATED):
            axes.bar_label(drawn, fmt="%.0f", fontsize=8, padding=2)
    axes.set_xticks(range(len(DOMAINS) + 1), [*DOMAINS, "mean"])
    axes.set_ylabel("zero-shot top-1 %")
    axes.margins(y=0.12)
    axes.set_ylim(0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train and evaluate both arms, and write tables and picture."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="draw the means into this PNG")
    options = parser.parse_args()
    projects = {arm: project_of(options.work, arm, [GATED], options.seeds) for arm in ARMS}
    draws = {"shuffled": (shuffled, [GATED])}
    figures = {
        arm: {slug: measure(project, slug, draws) for slug in DOMAINS}
        for arm, project in projects.items()
    }
    arm, project = next(iter(projects.items()))
    named = {slug: named_classes(project, slug) for slug in DOMAINS}
    tables = [to_markdown(*of_arm) for of_arm in figures.items()]
    tables += [f"In the arm {arm}:", split_table(named, figures[arm])]
    show_section("\n\n".join(tables), options.page, BEGIN, END)
    if options.figure is not None:
        draw(figures, options.figure)


if __name__ == "__main__":
    main()
