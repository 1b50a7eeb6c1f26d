"""Methods on the demo's domains, over seeds and in both arms of `demo_proof`: accuracy beside what
it costs, as tables and plot.

Run after `make demo`: `.venv/bin/python -m benchmarks.methods`. Heads are measured in memory
(`domain_vectors`). Methods that train the model have a store an arm and seed, those of
`demo_proof`, where what is there is never made again and a training that was cut off resumes. So
this can be stopped at any time and started again. Heads of all seeds come first. Tables and plot
are written at the end, after Ctrl-C too, and cover what is there by then. Where `gated-image` was
not measured, its means are those that `demo_proof` wrote.

A control is drawn for each seed, so that its spread is that of training and of the draw. With
`--stamps`, the photographs of `demo_photos`, methods that change the model are measured on these
too, and `gated-image-half` may be among the methods: the checkpoint of `gated-image` with
`interpolation: 0.5`. Seconds are of the processor, in all threads and processes of the training.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.demo_proof import (
    ARMS,
    DOMAINS,
    METHOD,
    beside,
    customize_with_pairs,
)
from benchmarks.domain_vectors import DomainVectors, processor_seconds
from benchmarks.pages import make_parser, write_section
from react_pipeline.clip import choose_device, load_classifier
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.settings import CONTROL_SUFFIX, METHODS, Method, trained_methods
from react_pipeline.stage import method_key
from react_pipeline.store import ReactError

HEADS = tuple(name for name, method in METHODS.items() if not method.has_model)
CHEAP = ("base", *HEADS, "gated-image", "gated-image-control")
MEASURED = ("ncm", "gda", "linear-head")
DEFAULT = ("base", *(name + suffix for name in MEASURED for suffix in ("", CONTROL_SUFFIX)))
HALF = f"{METHOD}-half"
"""The checkpoint of the method half way to the base, as with `interpolation: 0.5`."""
SHOWN = (*METHODS, HALF, HALF + CONTROL_SUFFIX)
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
HERE = Path(__file__).parent

Work = tuple[int, str, str]
"""A seed, a domain and a method."""


@dataclass(frozen=True)
class Row:
    """One method of one domain and seed: top-1 as a fraction, and what its training took.

    Attributes:
        seconds: Of the processor; of a training that the benchmark did not run, as its manifest
            says. photographs: Top-1 on the photographs; None where it was not measured.
    """

    seed: int
    domain: str
    method: str
    top1: float
    trainable_parameters: int = 0
    seconds: float = 0.0
    photographs: float | None = None
    arm: str = ""


def store_of_arm(project: Project, arm: str, seed: int) -> Project:
    """The store of `demo_proof` of an arm and a seed; all seeds share the retrieved pairs of the
    first, which no seed decides.
    """
    one = beside(project, f"proof/{arm}/{seed}", seed, same_subject=arm)
    first = one.config.store.with_name("0") / "retrieved_set"
    if seed and first.is_dir():
        own = one.config.store / "retrieved_set"
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(first, own, copy_function=os.link)
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


def row_of(project: Project, work: Work) -> Row | str:
    """The row of one piece of work, made if it is not there; or a text that says why there is
    none.
    """
    _, domain, method = work
    try:
        if row := published(project, work):
            return row
        if fresh_or_none(project, "retrieved_set", domain) is None:
            retrieve_pairs(project, domain)
        before = processor_seconds()
        if method != "base":
            customize_with_pairs(project, domain, method)
        seconds = processor_seconds() - before
        result = EvalResult.read(evaluate(project, domain, method))
        row = published(project, work)
        if row is None:
            return str(result.unavailable)
        return row if method == "base" else replace(row, seconds=seconds)
    except (
        ReactError
    ) as error:  # a guard that stops one training says something of that method, not of the others
        return str(error)


def row_of_head(vectors: DomainVectors, work: Work) -> Row:
    """The row of a head, or of the base, in memory."""
    seed, domain, method = work
    if method == "base":
        return Row(seed, domain, method, vectors.base)
    head, seconds = vectors.fit(method, seed)
    numbers = head.vectors.numel() + int(torch.count_nonzero(head.bias))
    return Row(seed, domain, method, vectors.top1(head), numbers, seconds)


def row_half_way(project: Project, work: Work, stamps: Path | None) -> Row | str:
    """The row of `HALF`, or of its control: that of the method, with other results."""
    from benchmarks.demo_photos import measure as measure_at  # as below
    from benchmarks.demo_photos import photographs

    seed, domain, method = work
    trained = method.replace(HALF, METHOD)
    row = row_of(project, (seed, domain, trained))
    if stamps is None or isinstance(row, str):
        return "needs --stamps" if stamps is None else row
    drawings, photos = measure_at(project, domain, trained, 0.5, photographs(stamps))
    return replace(row, method=method, top1=drawings / 100, photographs=photos / 100)


def entry(name: str) -> Method:
    """The method of a row's name."""
    return METHODS[name.replace(HALF, METHOD)]


def with_photographs(project: Project, row: Row, stamps: Path) -> Row:
    """The row with top-1 on the photographs, where the method changes the model."""
    from benchmarks.demo_photos import photographs, top1_of_photographs  # which imports this module

    if not entry(row.method).has_model or row.photographs is not None:
        return row
    base = fresh_or_none(project, "base_checkpoint", "all")
    checkpoint = base
    if row.method != "base":
        key = method_key(row.domain, row.method)
        checkpoint = fresh_or_none(project, "customized_checkpoint", key)
    if checkpoint is None:
        return row
    domain = project.domain(row.domain)
    clip, _ = load_classifier(checkpoint, base, domain, choose_device(project.config.device))
    return replace(row, photographs=top1_of_photographs(clip, photographs(stamps)) / 100)


def summarise(rows: Sequence[Row], domains: Sequence[str]) -> pd.DataFrame:
    """One line a method: means over seeds and domains, and their spread over seeds (standard
    deviation).

    Only seeds in which a method has a figure of every domain count. A gain is taken seed by seed
    and then averaged; the base has one figure, which is shown beside all seeds. Columns: `seeds`,
    each domain, `mean`, `spread`, `over_base`, `over_base_spread`, `over_control`,
    `over_control_spread` (percent and percentage points), `trainable_parameters`, `seconds` (of one
    training, mean), `photographs` (percent).
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
    for method in (method for method in SHOWN if means.get(method)):
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
        shown = [row.photographs for row in found if row.photographs is not None]
        line["photographs"] = 100 * statistics.mean(shown) if shown else None
        lines.append(line)
    return pd.DataFrame(lines)


def to_markdown(summary: pd.DataFrame, domains: Sequence[str]) -> str:
    """The summary as a Markdown table; a spread follows its mean where there are two seeds
    or more.
    """
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


def proof_means(page: Path) -> dict[str, tuple[float, float]]:
    """Mean top-1 of `gated-image` and its lead over its control by arm, as `demo_proof` wrote them;
    empty if it did not.
    """
    found = re.search(r"^\| mean \|([ \d.|]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        return {}
    _, *values = (float(cell) for cell in found[1].split("|") if cell.strip())
    width = len(values) // len(ARMS)  # the method, its control, and shuffled captions
    return {
        arm: (values[place * width], values[place * width] - values[place * width + 1])
        for place, arm in enumerate(ARMS)
    }


def brief(
    summaries: Mapping[str, pd.DataFrame], proof: Mapping[str, tuple[float, float]] = {}
) -> str:
    """One line a method of the first arm: accuracy and lead in both arms, and what it costs.

    Args:
        summaries: By the name of the arm, from `summarise`.
        proof: From `proof_means`, for `gated-image` where they have one seed of it or none.
    """
    arms = {arm: table.set_index("method") for arm, table in summaries.items()}
    first = next(iter(arms.values()))
    names = ["top-1, %", *(name for arm in arms for name in (arm, "over random pairs"))]
    names += ["trained parameters", "processor seconds"]
    photographs = first["photographs"]
    if shows_photographs := bool(photographs.notna().any()):
        names.append("lost on photographs")
    shown = [name for name in first.index if not name.endswith(CONTROL_SUFFIX)]
    if METHOD not in shown and {*arms} <= {*proof}:
        shown.append(METHOD)
    rows = []
    for method in shown:
        cells: list[str] = [Markup(f"`{method}`")]
        for arm, table in arms.items():
            line = table.loc[method] if method in table.index else pd.Series(dtype=float)
            if method == METHOD and arm in proof and pd.isna(line.get("spread")):
                cells += [f"{proof[arm][0]:.1f}", f"{proof[arm][1]:+.1f}"]  # of several seeds
                continue
            cells.append(_with_spread(line.get("mean"), line.get("spread"), ""))
            lead = line.get("over_control"), line.get("over_control_spread")
            cells.append(_with_spread(*lead, "+"))
        if method not in first.index:
            rows.append([*cells, *["–"] * (len(names) - len(cells))])
            continue
        line = first.loc[method]
        cells.append(f"{line['trainable_parameters']:,.0f}")
        cells.append("–" if method == "base" else f"{line['seconds']:.1f}")
        if shows_photographs:
            # A head leaves the model as it is.
            measured = method if entry(method).has_model else "base"
            lost = photographs.get("base", float("nan")) - photographs.get(measured, float("nan"))
            cells.append("–" if method == "base" or pd.isna(lost) else f"{lost:.1f}")
        rows.append(cells)
    return markdown_table(names, rows).rstrip()


def shade(method: str) -> tuple[float, ...]:
    """The colour of a method in the figures."""
    return colormaps["tab20"](trained_methods().index(method))


def draw(
    summaries: Mapping[str, pd.DataFrame],
    path: Path,
    proof: Mapping[str, tuple[float, float]] = {},
) -> None:
    """Mean top-1 against seconds, a panel an arm; controls hollow, the base a line, and so is
    `gated-image` of the proof.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0]
    for axes, (arm, summary) in zip(panels, summaries.items(), strict=True):
        for line in summary[summary["method"] != "base"].to_dict("records"):
            kind = line["method"].removesuffix(CONTROL_SUFFIX)
            colour, is_control = shade(entry(kind).name), kind != line["method"]
            axes.errorbar(
                line["seconds"],
                line["mean"],
                None if pd.isna(line["spread"]) else line["spread"],
                fmt="s" if kind == HALF else "o",
                color=colour,
                mfc="white" if is_control else colour,
                capsize=3,
                label=None if is_control else kind,
            )
        for value in summary.loc[summary["method"] == "base", "mean"]:
            axes.axhline(value, color="#888888", linestyle="--", linewidth=1, label="base")
        if METHOD not in set(summary["method"]) and arm in proof:
            axes.axhline(
                proof[arm][0], color=shade(METHOD), linestyle=":", linewidth=1, label=METHOD
            )
        axes.set_xscale("log")
        seconds = summary.loc[summary["method"] != "base", "seconds"]
        axes.set_xlim(min(1, seconds.min() / 2), max(100, seconds.max() * 2))
        axes.xaxis.set_minor_formatter(NullFormatter())
        # Seconds span less than two decades, which would leave one tick or two.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set(title=arm, xlabel="processor seconds of one training")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 %, mean of the domains")
    panels[0].errorbar(
        [], [], fmt="o", color="#444444", mfc="white", label="its control (random pairs)"
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def report(
    rows: Sequence[Row],
    skipped: Mapping[tuple[str, Work], str],
    domains: Sequence[str],
    page: Path | None,
    brief_page: Path | None = None,
) -> str:
    """Write the section of the page; of the page of users the short table, and the plot beside it.

    Returns:
        The tables.
    """
    summaries = {
        name: summary
        for name, arm in ARMS.items()
        if not (summary := summarise([row for row in rows if row.arm == arm], domains)).empty
    }
    if not summaries:
        return "no method has a figure of every domain yet"
    lines = []
    for name, summary in summaries.items():
        lines += [f"{name.capitalize()}:", "", to_markdown(summary, domains), ""]
    lines += ["Zero-shot top-1 in percent, mean ± standard deviation over seeds.", ""]
    reasons = Counter((arm, method, why) for (arm, (_, _, method)), why in skipped.items())
    if reasons:
        lines += [f"Not in the table: {len(skipped)} results.", ""]
        lines += [
            f"- `{name}`, {arm}, {count}: {why}" for (arm, name, why), count in reasons.items()
        ]
        lines += [""]
    if page is not None:
        write_section(page, "\n".join(lines), BEGIN, END)
    if brief_page is not None:
        proof = proof_means(HERE / "results.md")
        draw(summaries, brief_page.parent / "images" / "methods.png", proof)
        picture = "![Top-1 against processor seconds of each method and its control]"
        text = f"{brief(summaries, proof)}\n\n{picture}(images/methods.png)"
        write_section(brief_page, text, BEGIN, END)
    return "\n".join(lines)


def measure(project: Project, options: argparse.Namespace) -> None:
    """Make what is missing, method by method, and write what there is, also if it is cut off."""
    domains = list(options.domains)
    store = functools.cache(functools.partial(store_of_arm, project))
    vectors = functools.cache(lambda arm, domain: DomainVectors.of(store(arm, 0), domain))

    def made(arm: str, work: Work) -> Row | str:
        seed, domain, method = work
        if method.startswith(HALF):
            return row_half_way(store(arm, seed), work, options.stamps)
        if method in ("base", *HEADS):
            return row_of_head(vectors(arm, domain), work)
        return row_of(store(arm, seed), work)

    order = in_order(options.seeds, domains, options.methods)
    rows: list[Row] = []
    skipped: dict[tuple[str, Work], str] = {}
    try:
        for arm, work in ((arm, work) for arm in ARMS.values() for work in order):
            row = made(arm, work)
            if isinstance(row, Row) and options.stamps is not None:
                row = with_photographs(store(arm, work[0]), row, options.stamps)
            print(arm, *work, row if isinstance(row, str) else asdict(row), flush=True)
            if isinstance(row, str):
                skipped[arm, work] = row
            else:
                rows.append(replace(row, arm=arm))
    finally:
        print(report(rows, skipped, domains, options.page, options.brief_page))


def main() -> None:
    """Measure the demo's domains."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds 0 to this, less one")
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--methods", nargs="+", default=DEFAULT, choices=SHOWN)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--stamps", type=Path, default=None, help="stamps of Tux Paint")
    parser.set_defaults(page=HERE / "results.md")
    parser.add_argument("--brief-page", type=Path, help="the same; gets short table and plot")
    options = parser.parse_args()
    project = Project.load(options.config)
    measure(project, options)


if __name__ == "__main__":
    main()
