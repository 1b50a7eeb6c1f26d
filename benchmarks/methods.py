"""Every method on the demo's domains over several training seeds: accuracy beside what it costs, as
table and plot.

Run after `make demo`: `.venv/bin/python -m benchmarks.methods`. Each seed has a store of its own
(`demo_proof`), with the demo's pairs linked in, and results of the demo itself for the seed it was
trained with. What a store holds is never made again, so this can be stopped at any time and started
again; a training that was cut off resumes. Cheap methods of all seeds come first. Table and plot
are written at the end, after Ctrl-C too, and cover what is there by then; `--report` trains nothing
and writes them; it needs no demo where every result is on file.

Every result is also a line of `benchmarks/results.csv`, with a digest of the recipe that
trained it.
A result that is there with today's recipe is taken from there, on whatever machine it was made;
`--anew` leaves the file aside.

A control is drawn for each seed, so that its spread is that of training and of the draw.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.demo_proof import DOMAINS, customize_with_pairs, seeded
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, METHODS
from react_pipeline.stage import method_key
from react_pipeline.store import ReactError, canonical_json

HEADS = tuple(name for name, method in METHODS.items() if not method.has_model)
CHEAP = ("base", *HEADS, "gated-image", "gated-image-control")
MADE = ("customized_checkpoint", "domain_results")
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
HERE = Path(__file__).parent

Work = tuple[int, str, str]
"""A seed, a domain and a method."""


@dataclass(frozen=True)
class Row:
    """One method of one domain and seed: top-1 as a fraction, and what its training took."""

    seed: int
    domain: str
    method: str
    top1: float
    trainable_parameters: int = 0
    seconds: float = 0.0


def store_of(project: Project, seed: int) -> Project:
    """The project with another training seed, as `seeded`; a seed that is the project's own finds
    what is made.
    """
    one = seeded(project, seed)
    if seed == (project.config.customization.defaults.seed or 0):
        for stage in MADE:
            for source in (project.config.store / stage).rglob("*"):
                target = one.config.store / source.relative_to(project.config.store)
                if source.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(source, target)
    return one


def in_order(seeds: int, domains: Sequence[str], methods: Sequence[str]) -> list[Work]:
    """All work, cheap methods of all seeds first; then seed after seed, so that a stop leaves whole
    seeds.

    The base trains nothing, so one seed of it is all there is.
    """

    def place(work: Work) -> tuple[bool, int]:
        return work[2] not in CHEAP, work[0]

    every = [
        (seed, domain, method) for method in methods for seed in range(seeds) for domain in domains
    ]
    return sorted((work for work in every if work[0] == 0 or work[2] != "base"), key=place)


def published(project: Project, work: Work) -> Row | None:
    """The row of what the store of a seed holds; None where it is not there, out of date, or
    without a figure.
    """
    seed, domain, method = work
    key = method_key(domain, method)
    result = fresh_or_none(project, "domain_results", key)
    checkpoint = None if method == "base" else fresh_or_none(project, "customized_checkpoint", key)
    top1 = None if result is None else EvalResult.read(result).top1
    if top1 is None or (method != "base" and checkpoint is None):
        return None
    if checkpoint is None:
        return Row(seed, domain, method, top1)
    counts = checkpoint.counts
    return Row(seed, domain, method, top1, counts["trainable_parameters"], counts["seconds"])


def row_of(project: Project, work: Work, *, train: bool) -> Row | str:
    """The row of one piece of work, made if it is not there and `train`; or a text that says why
    there is none.
    """
    _, domain, method = work
    try:
        row = published(project, work)
        if row is not None or not train:
            return row or "not made yet"
        if method != "base":
            customize_with_pairs(project, domain, method)
        result = EvalResult.read(evaluate(project, domain, method))
        return published(project, work) or str(result.unavailable)
    except (
        ReactError
    ) as error:  # a guard that stops one training says something of that method, not of the others
        return str(error)


def recipe_of(project: Project, domain: str, method: str) -> str:
    """Digest of what is configured: the training (its seed is another column), the retrieval,
    classes and templates.
    """
    training = (
        {}
        if method == "base"
        else project.training(domain, method).model_dump(mode="json", exclude={"seed"})
    )
    retrieval = project.retrieval(domain).model_dump(mode="json")
    classes = project.domain(domain).model_dump(mode="json", include={"classes", "templates"})
    return hashlib.sha256(canonical_json([training, retrieval, classes]).encode()).hexdigest()[:12]


def read_results(path: Path, recipes: Mapping[tuple[str, str], str]) -> dict[Work, Row]:
    """Earlier results that were made with today's recipes, by domain and method."""
    if not path.exists():
        return {}
    lines = pd.read_csv(path, dtype={"recipe": str}, float_precision="round_trip").to_dict(
        "records"
    )
    kept = [
        line
        for line in lines
        if recipes.get((line["domain"], line["method"])) == line.pop("recipe")
    ]
    return {(line["seed"], line["domain"], line["method"]): Row(**line) for line in kept}


def write_results(path: Path, rows: Sequence[Row], recipes: Mapping[tuple[str, str], str]) -> None:
    """Write every result with the recipe it was made with."""
    lines = [{**asdict(row), "recipe": recipes[row.domain, row.method]} for row in rows]
    pd.DataFrame(lines).sort_values(["method", "domain", "seed"]).to_csv(path, index=False)


def summarise(rows: Sequence[Row], domains: Sequence[str]) -> pd.DataFrame:
    """One line a method: means over seeds and domains, and their spread over seeds (standard
    deviation).

    Only seeds in which a method has a figure of every domain count. A gain is taken seed by seed
    and then averaged; the base has one figure, which is shown beside all seeds. Columns: `seeds`,
    each domain, `mean`, `spread`, `over_base`, `over_base_spread`, `over_control`,
    `over_control_spread` (percent and percentage points), `trainable_parameters`, `seconds` (of one
    training, mean).
    """
    figures: dict[str, dict[int, dict[str, Row]]] = {}
    for row in rows:
        figures.setdefault(row.method, {}).setdefault(row.seed, {})[row.domain] = row
    whole = {
        method: {
            seed: [row[domain] for domain in domains]
            for seed, row in by_seed.items()
            if {*domains} <= {*row}
        }
        for method, by_seed in figures.items()
    }
    means = {
        method: {
            seed: 100 * statistics.mean(row.top1 for row in found)
            for seed, found in by_seed.items()
        }
        for method, by_seed in whole.items()
    }
    base = means.get("base", {}).get(0)
    lines = []
    for method in (method for method in METHODS if means.get(method)):
        mine, control = means[method], means.get(method + CONTROL_SUFFIX, {})
        found = [row for by_domain in whole[method].values() for row in by_domain]
        line: dict[str, object] = {"method": method, "seeds": len(mine)}
        for domain in domains:
            line[domain] = 100 * statistics.mean(row.top1 for row in found if row.domain == domain)
        gains = {
            "mean": list(mine.values()),
            "over_base": [value - base for value in mine.values()]
            if base is not None and method != "base"
            else [],
            "over_control": [
                value - control[seed] for seed, value in mine.items() if seed in control
            ],
        }
        for name, values in gains.items():
            line[name] = statistics.mean(values) if values else None
            line["spread" if name == "mean" else f"{name}_spread"] = (
                statistics.stdev(values) if values[1:] else None
            )
        line["trainable_parameters"] = statistics.mean(row.trainable_parameters for row in found)
        line["seconds"] = statistics.mean(row.seconds for row in found)
        lines.append(line)
    return pd.DataFrame(lines)


def to_markdown(summary: pd.DataFrame, domains: Sequence[str]) -> str:
    """The summary as a Markdown table; a spread follows its mean where there are two seeds or more."""
    names = [
        "method",
        *domains,
        "mean",
        "over base",
        "over control",
        "trained parameters",
        "seconds",
        "seeds",
    ]
    rows = []
    for line in summary.to_dict("records"):
        cells = [Markup(f"`{line['method']}`"), *(f"{line[domain]:.1f}" for domain in domains)]
        cells += [_with_spread(line["mean"], line["spread"], "")]
        cells += [
            _with_spread(line[name], line[f"{name}_spread"], "+")
            for name in ("over_base", "over_control")
        ]
        trains = line["method"] != "base"
        cells += (
            [f"{line['trainable_parameters']:,.0f}", f"{line['seconds']:.0f}"]
            if trains
            else ["0", "–"]
        )
        rows.append([*cells, str(line["seeds"]) if trains else "–"])
    return markdown_table(names, rows).rstrip()


def _with_spread(value: float | None, spread: float | None, sign: str) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:{sign}.1f}" + ("" if pd.isna(spread) else f" ± {spread:.1f}")


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Mean top-1 against trained parameters and against seconds; controls hollow, the base a line."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    trained = [line for line in summary.to_dict("records") if line["method"] != "base"]
    kinds = list(dict.fromkeys(line["method"].removesuffix(CONTROL_SUFFIX) for line in trained))
    axis_names = {
        "trainable_parameters": "trained parameters",
        "seconds": "seconds of one training",
    }
    for axes, (column, label) in zip(panels, axis_names.items(), strict=True):
        for line in trained:
            kind = line["method"].removesuffix(CONTROL_SUFFIX)
            colour, control = f"C{kinds.index(kind)}", kind != line["method"]
            spread = None if pd.isna(line["spread"]) else line["spread"]
            axes.errorbar(
                *(line[column], line["mean"], spread),
                **{
                    "fmt": "o",
                    "color": colour,
                    "mfc": "white" if control else colour,
                    "capsize": 3,
                },
                label=None if control else kind,
            )
        for value in summary.loc[summary["method"] == "base", "mean"]:
            axes.axhline(value, color="#888888", linestyle="--", linewidth=1, label="base")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    # Seconds span less than two decades, which would leave one tick or two.
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panels[0].set_ylabel("zero-shot top-1 %, mean of the domains")
    panels[0].errorbar(
        [], [], fmt="o", color="#444444", mfc="white", label="its control (random pairs)"
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write_section(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put `text` between the two markers of a page, by default this benchmark's; all else stays as
    it is.

    Raises:
        ValueError: If the page has not both markers, once each and in this order.
    """
    head, tail = require_markers(page, begin, end)
    page.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")


def require_markers(page: Path, begin: str, end: str) -> tuple[str, str]:
    """The text before and after two markers of a page.

    Raises:
        ValueError: If the page has not both, in this order.
    """
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise ValueError(
            f"{page}: needs the lines {begin} and {end}; the table is written between them"
        )
    return head, tail


def report(
    rows: Sequence[Row], skipped: Mapping[Work, str], domains: Sequence[str], page: Path
) -> str:
    """Write the section of the page and the plot beside it; return the table."""
    summary = summarise(rows, domains)
    if summary.empty:
        return "no method has a figure of every domain yet"
    image = page.parent / "images" / "methods.png"
    draw(summary, image)
    table = to_markdown(summary, domains)
    lines = [table, "", "Zero-shot top-1 in percent, mean ± standard deviation over seeds.", ""]
    reasons = Counter((method, why) for (_, _, method), why in skipped.items())
    if reasons:
        lines += [f"Not in the table: {len(skipped)} results.", ""]
        lines += [f"- `{method}`, {count}: {why}" for (method, why), count in reasons.items()]
        lines += [""]
    lines += [
        "![Top-1 against trained parameters and against seconds of each method](images/methods.png)"
    ]
    write_section(page, "\n".join(lines))
    return table


def main() -> None:
    """Make what is missing, method by method, and write table and plot as it goes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="training seeds 0 to this, less one")
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument(
        "--page", type=Path, default=HERE / "results.md", help="has the two markers; gets the table"
    )
    parser.add_argument("--report", action="store_true", help="train nothing: write what is there")
    parser.add_argument(
        "--results", type=Path, default=HERE / "results.csv", help="the results line by line"
    )
    parser.add_argument(
        "--anew", action="store_true", help="take nothing from the results of earlier runs"
    )
    given = parser.parse_args()
    project = Project.load(given.config)
    # Of the demo's domains too where they are not asked for, so that their lines of the file are
    # kept.
    everywhere = {*given.domains, *(domain for domain in DOMAINS if project.has_domain(domain))}
    recipes = {
        (domain, method): recipe_of(project, domain, method)
        for domain in everywhere
        for method in METHODS
    }
    known = {} if given.anew else read_results(given.results, recipes)
    seeded_project = functools.cache(lambda seed: store_of(project, seed))
    order = in_order(given.seeds, given.domains, given.methods)
    rows: list[Row] = []
    skipped: dict[Work, str] = {}
    try:
        for work in order:
            row = known.get(work) or row_of(seeded_project(work[0]), work, train=not given.report)
            print(*work, row if isinstance(row, str) else asdict(row), flush=True)
            if isinstance(row, str):
                skipped[work] = row
            else:
                rows.append(row)
    finally:
        print(report(rows, skipped, given.domains, given.page))
        others = [row for work, row in known.items() if work not in order]
        if rows or others:
            write_results(given.results, [*rows, *others], recipes)


if __name__ == "__main__":
    main()
