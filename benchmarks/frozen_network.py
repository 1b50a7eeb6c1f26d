"""Why gated-image stays behind locked-text on the demo: the image tower trained in one part at a
time.

Run after `make demo`: `.venv/bin/python -m benchmarks.frozen_network`; `--page
benchmarks/results.md` writes the table into that page. The demo's image tower is a convolutional
network with two transformer blocks behind it. If gated blocks were at fault, training those two
blocks themselves would do better than training gated blocks in front of them; if the frozen network
is, training it alone would do as well as `locked-text`, which trains the whole tower. Each variant
has a store of its own beside the demo's, with the demo's pairs; what a store holds is not made
again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.demo_proof import DOMAINS, beside
from benchmarks.methods import Row, require_markers, row_of, write_section
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import METHODS, add_method
from react_pipeline.training import ModelMethod

BEGIN, END = "<!-- frozen-network:begin -->", "<!-- frozen-network:end -->"


@dataclass(frozen=True)
class Variant:
    """A training of the demo.

    Attributes:
        trains: What is trained, in words.
        method: A method of the project, or one of `PARTS`.
        fields: Fields of the training that differ from the demo's.
    """

    trains: str
    method: str
    fields: Mapping[str, Any]


class Part(ModelMethod):
    """A part of a hybrid image tower of timm, by the beginning of its parameters' names."""

    def __init__(self, name: str, prefix: str) -> None:
        self.name = name
        self._prefix = prefix

    def trains(self, name: str) -> bool:
        """That part."""
        return name.startswith(self._prefix)


PARTS = (
    Part("blocks-alone", "visual.trunk.blocks."),
    Part("network-alone", "visual.trunk.patch_embed."),
)
"""Methods of this benchmark."""

VARIANTS: Mapping[str, Variant] = {
    "gated": Variant("gated blocks in front of the two transformer blocks", "gated-image", {}),
    "gated-longer": Variant("the same, five times as long", "gated-image", {"steps": 1_000}),
    "blocks": Variant(
        "the two transformer blocks themselves", "blocks-alone", {"learning_rate": 1e-4}
    ),
    "blocks-faster": Variant(
        "the same, five times the learning rate", "blocks-alone", {"learning_rate": 5e-4}
    ),
    "network": Variant(
        "the convolutional network", "network-alone", {"learning_rate": 1e-4, "steps": 100}
    ),
}
"""Variants by the name of their store."""


def add_parts() -> None:
    """Make `PARTS` methods of this process."""
    for part in PARTS:
        if part.name not in METHODS:
            add_method(part)


def to_markdown(found: Mapping[str, Sequence[Row]], steps: Mapping[str, tuple[int, float]]) -> str:
    """One line a variant; a figure is the mean over seeds, ± their standard deviation of the mean
    over domains.
    """
    lines = []
    for name, rows in found.items():
        seeds = sorted({row.seed for row in rows})
        of_domain = [
            100 * statistics.mean(row.top1 for row in rows if row.domain == domain)
            for domain in DOMAINS
        ]
        means = [
            100 * statistics.mean(row.top1 for row in rows if row.seed == seed) for seed in seeds
        ]
        mean = f"{statistics.mean(means):.1f}" + (
            f" ± {statistics.stdev(means):.1f}" if means[1:] else ""
        )
        cells = [
            Markup(VARIANTS[name].trains),
            f"{rows[0].trainable_parameters:,.0f}",
            "{:,}, {:g}".format(*steps[name]),
        ]
        lines.append([*cells, *(f"{value:.1f}" for value in of_domain), mean, len(seeds)])
    columns = ["trains", "trained parameters", "steps, learning rate", *DOMAINS, "mean", "seeds"]
    return markdown_table(columns, lines).rstrip()


def main() -> None:
    """Train what is missing, then print the table of all variants that are whole."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", type=int, default=1, help="training seeds 0 to this, less one")
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--report", action="store_true", help="train nothing: show what is there")
    parser.add_argument(
        "--page", type=Path, default=None, help="has the two markers; gets the table"
    )
    given = parser.parse_args()
    if given.page is not None:
        require_markers(given.page, BEGIN, END)
    add_parts()
    project = Project.load(given.config)
    found: dict[str, list[Row]] = {}
    steps: dict[str, tuple[int, float]] = {}
    for name in given.variants:
        variant = VARIANTS[name]
        for seed in range(given.seeds):
            one = beside(
                project, f"frozen_network/{name}/{seed}", seed, {variant.method: variant.fields}
            )
            rows = [
                row_of(one, (seed, domain, variant.method), train=not given.report)
                for domain in DOMAINS
            ]
            print(name, seed, *rows, sep="\n  ", flush=True)
            whole = [row for row in rows if isinstance(row, Row)]
            if len(whole) == len(DOMAINS):
                found.setdefault(name, []).extend(whole)
                resolved = one.training(DOMAINS[0], variant.method)
                steps[name] = (resolved.steps, resolved.learning_rate)
    table = to_markdown(found, steps)
    print(table)
    if given.page is not None:
        write_section(given.page, table, BEGIN, END)


if __name__ == "__main__":
    main()
