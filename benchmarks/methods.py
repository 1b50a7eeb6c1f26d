"""Methods on the demo's domains, over seeds and in both arms of `demo_proof`: accuracy beside what
it costs.

Run `.venv/bin/python -m benchmarks.methods`. The arms are the projects of `demo_proof`, whose
trainings are not made again. Gains are taken seed by seed, as in any comparison of a project with
`seeds`; seconds are those of a training, as its manifest says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from benchmarks.controls import GATED, measure
from benchmarks.demo_proof import ARMS, DOMAINS, WORK, project_of
from benchmarks.pages import make_parser, show_section
from react_pipeline.evaluation import MEAN, SEED_COLUMNS, comparison_table
from react_pipeline.lineage import fresh, run
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import first_seed
from react_pipeline.stage import method_key

METHODS = (GATED, "linear-head", "gda", "ncm")
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
NOTE = "Zero-shot top-1 in percent, mean ± standard deviation over seeds."


def to_markdown(project: Project) -> str:
    """Return a row for each method and control that is measured."""
    table = comparison_table(project, DOMAINS)
    table = table[table["method"].map(first_seed) == table["method"]]
    table = table.reindex(columns=list(dict.fromkeys([*table, *SEED_COLUMNS])))
    rows = []
    for method, of_method in table.groupby("method", sort=False):
        by_domain = of_method.set_index("domain")
        mean = by_domain.loc[MEAN]
        gains, costs = ["–", "–"], ["0", "–", "–"]
        if method != "base":
            gains = [_over_seeds(mean, name, "+") for name in ("delta_top1", "gain_over_control")]
            seeds = 1 if pd.isna(mean["seeds"]) else mean["seeds"]
            taken = f"{seconds(project, str(method)):.1f}"
            costs = [f"{mean['trainable_parameters']:,.0f}", taken, f"{seeds:.0f}"]
        accuracies = [_over_seeds(by_domain.loc[slug], "top1").split(" ±")[0] for slug in DOMAINS]
        rows.append([Markup(f"`{method}`"), *accuracies, _over_seeds(mean, "top1"), *gains, *costs])
    heads = ["method", *DOMAINS, "mean", "over base", "over control", "trained parameters"]
    return markdown_table([*heads, "seconds", "seeds"], rows).rstrip()


def _over_seeds(row: pd.Series, figure: str, sign: str = "") -> str:
    mean, spread = row[f"{figure}_mean"], row[f"{figure}_std"]
    if not pd.isna(mean):
        return f"{100 * mean:{sign}.1f} ± {100 * spread:.1f}"
    return "–" if pd.isna(row[figure]) else f"{100 * row[figure]:{sign}.1f}"


def seconds(project: Project, method: str) -> float:
    """Return the mean seconds of a training, over domains and seeds."""
    keys = [
        method_key(slug, name)
        for slug in DOMAINS
        for name in project.config.all_methods
        if first_seed(name) == method
    ]
    return float(
        np.mean([fresh(project, "customized_checkpoint", key).counts["seconds"] for key in keys])
    )


def main() -> None:
    """Train and measure what is missing, and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    options = parser.parse_args()
    texts = []
    for arm in ARMS:
        project = project_of(options.work, arm, options.methods, options.seeds)
        for slug in DOMAINS:
            measure(project, slug)
            run(project, "comparison", slug)
        texts.append(f"{arm.capitalize()}:\n\n{to_markdown(project)}")
    show_section("\n\n".join([*texts, NOTE]), options.page, BEGIN, END)


if __name__ == "__main__":
    main()
