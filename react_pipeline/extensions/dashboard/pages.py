"""Dashboards: a comparison, or the overview of all domains, as one HTML page that needs nothing but
itself.

Belongs here: what is on a page (`templates` say how). Does not belong here: figures (`figures`),
pictures (`examples`), the text at its head (`findings`).

A page holds plotly's script and every picture, and its policy forbids the browser to load anything.
Class names, captions, file names and reasons come from outside: the templates escape them, or they
are data of a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from react_pipeline.evaluation import (
    EVIDENCE_DIFFERENCES,
    JUDGED,
    MEAN,
    Compared,
    Evidence,
    cell_interval,
    cell_text,
    first_seeds,
    percent,
    points,
    table_cells,
)
from react_pipeline.extensions.dashboard.examples import read_curves, read_examples, shown_classes
from react_pipeline.extensions.dashboard.figures import (
    classes_figure,
    costs_figure,
    curves_figure,
    domains_figure,
    intervals_figure,
)
from react_pipeline.extensions.dashboard.findings import find_in_domain, find_over_domains
from react_pipeline.pages import render
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

MAX_CLASS_ROWS = 500
"""Classes listed on the page; the rest is in `per_class.csv`."""

MAX_DOMAINS = 100
"""Domains shown on the page of all; the rest is in `table.csv`."""

_ALWAYS_IN_TOP5 = 5  # classes: with so few the right one is always among the first five
_MEASURED = {"top1": "Top-1 accuracy, %", "delta_top1": "Difference to the base, points"}


def domain_page(compared: Compared) -> str:
    """The page of one domain."""
    table = compared.table
    title = compared.title or compared.slug
    evidence = compared.evidence
    finding = find_in_domain(table, evidence.values())
    classes = first_seeds(compared.classes)
    methods = _trained_methods(table, finding.method)
    changed = set(classes.loc[classes["delta"].fillna(0) != 0, "method"])
    moved = [method for method in methods if method in changed]
    few = classes["class"].nunique() <= _ALWAYS_IN_TOP5
    figures = _measures(table, evidence)
    if methods:
        figures["costs"] = costs_figure(first_seeds(table))
    if moved:
        figures["classes"] = classes_figure(classes, moved)
    if curves := read_curves(compared.checkpoints):
        figures["curves"] = curves_figure(curves)
    return _page(
        "domain.html",
        page_title=f"{title}: comparison",
        kind=f"Comparison of methods on one domain: {compared.slug}",
        title=title,
        finding=finding,
        tiles=_tiles(table, finding.method),
        figures=_drawn(figures),
        table=_numbers(table, ("domain", "top5") if few else ("domain",)),
        evidence=evidence,
        classes=_class_table(classes) if methods and classes["delta"].notna().any() else None,
        still=[method for method in methods if method not in moved],
        retrieved=compared.retrieved and _examples(compared.retrieved, classes, finding.method),
        datasets=sorted({str(name) for name in table["dataset"].dropna()}),
        origins=[
            (method, result.fingerprint, _origin(compared.checkpoints.get(method)))
            for method, result in compared.results.items()
        ],
    )


def _measures(table: pd.DataFrame, evidence: Mapping[str, Evidence]) -> dict[str, Figure]:
    """Figures with intervals: of what was measured, and of each kind of evidence."""
    figures = {}
    if table["top1"].notna().any():
        figures["methods"] = intervals_figure(table, _MEASURED)
    for name, one in evidence.items():
        titles = {
            column: f"{EVIDENCE_DIFFERENCES[column].capitalize()}, points"
            for column in one.columns
            if table[column].notna().any()
        }
        if titles:
            figures[name] = intervals_figure(table, titles)
    return figures


def overview_page(table: pd.DataFrame, comparisons: Mapping[str, Artifact]) -> str:
    """The page of all domains, from the table of `overview`."""
    finding = find_over_domains(table)
    means = table[table["domain"] == MEAN]
    count = table["domain"].nunique() - (not means.empty)
    table = table[table["domain"].isin({MEAN, *_most_changed(table, finding.method)})]
    domains = table[table["domain"] != MEAN]
    figures = {"domains": domains_figure(table, finding.method)} if finding.method else {}
    methods = _trained_methods(means, finding.method)
    if methods:
        figures["costs"] = costs_figure(first_seeds(means))
    others = {
        name: domains_figure(table, name)
        for name in methods[1:]
        if not name.endswith(CONTROL_SUFFIX)
    }
    return _page(
        "overview.html",
        page_title="All domains: overview",
        kind="Comparison of methods over all domains",
        title="All domains",
        finding=finding,
        tiles=_tiles(means, finding.method),
        figures=_drawn(figures),
        means=None if means.empty else _numbers(means, ("domain", "n"), status="Covers"),
        # With top-5 the table would be wider than the page; it is on the page of each domain.
        domains=_numbers(domains, ("top5",)),
        shown=domains["domain"].nunique(),
        count=count,
        others=_drawn(others, "domains-"),
        comparisons={slug: comparison.fingerprint for slug, comparison in comparisons.items()},
    )


def _most_changed(table: pd.DataFrame, method: str) -> list[str]:
    """The domains that a page shows: first those without a number, then by how much a method
    changed them.
    """
    domains = table.loc[table["domain"] != MEAN, "domain"].unique()
    changes = table[table["method"] == method].set_index("domain")["delta_top1"].abs()
    order = changes.reindex(domains).sort_values(
        ascending=False, na_position="first", kind="stable"
    )
    return list(order.index[:MAX_DOMAINS])


def _page(template: str, **values: Any) -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped, unused-ignore]

    return render("extensions/dashboard", template, plotly=Markup(get_plotlyjs()), **values)  # noqa: S704  # plotly's own


def _trained_methods(table: pd.DataFrame, first: str) -> list[str]:
    """The measured methods but the base, `first` at the front and controls behind their methods."""
    measured = first_seeds(table[table["top1"].notna()])["method"]
    return sorted(measured[measured != "base"], key=lambda method: method != first)


def _drawn(figures: Mapping[str, Figure], prefix: str = "") -> dict[str, Markup]:
    """Each figure as HTML, in an element of its name; plotly would draw a name at random."""
    from plotly.io import to_html  # type: ignore[import-untyped, unused-ignore]

    options = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    page = {
        "config": options,
        "full_html": False,
        "include_plotlyjs": False,
        "include_mathjax": False,
    }
    return {
        name: Markup("<div class='plot'>{}</div>").format(
            Markup(to_html(figure, div_id=prefix + name, **page))  # noqa: S704
        )
        for name, figure in figures.items()
    }


def _tiles(table: pd.DataFrame, method: str) -> list[tuple[str, str, str]]:
    """The three numbers that matter, of the method that is spoken of: the number, what it is, its
    interval.
    """
    labels = {
        "top1": f"top-1 of {method}",
        "delta_top1": "over the base",
        "gain_over_control": "over its control",
    }
    if table["top1"].isna().all():
        labels = {**EVIDENCE_DIFFERENCES, JUDGED: "pictures judged"}
    return [
        (
            cell_text(name, row[name]) + ("%" if name == "top1" else ""),
            label,
            cell_interval(name, row),
        )
        for row in table[table["method"] == method].to_dict("records")
        for name, label in labels.items()
        if not pd.isna(row[name])
    ]


def _numbers(table: pd.DataFrame, left_out: Sequence[str], status: str = "") -> dict[str, Any]:
    """What the template `numbers.html` shows of a table; the column of the status only where it
    says something.
    """
    heads, rows = table_cells(table, left_out)
    if status or not (table["status"] == "ok").all():
        heads["status"] = status
    controls = table["method"].str.endswith(CONTROL_SUFFIX)
    statuses = table["status"].replace("ok", "")
    return {"heads": heads, "rows": list(zip(controls, rows, statuses, strict=True))}


def _class_table(classes: pd.DataFrame) -> dict[str, Any]:
    """Accuracy of every class by method, and its difference to the base."""
    methods = list(classes["method"].unique())
    rows = []
    of_each = classes.groupby("class", sort=False)
    for name, of_class in list(of_each)[:MAX_CLASS_ROWS]:
        cells = [
            (percent(accuracy), "" if method == "base" else points(delta))
            for method, accuracy, delta in zip(
                of_class["method"], of_class["accuracy"], of_class["delta"], strict=True
            )
        ]
        rows.append((name, int(of_class["images"].iloc[0]), cells))
    return {"methods": methods, "rows": rows, "count": len(of_each)}


def _examples(retrieved: Artifact, classes: pd.DataFrame, method: str) -> dict[str, Any]:
    if classes.empty:  # nothing is labelled, so no class gained or lost
        class_names = pd.read_parquet(retrieved.file("pairs.parquet"), columns=["class"])[
            "class"
        ].unique()
        classes = pd.DataFrame({"class": class_names, "method": method, "delta": float("nan")})
    shown = classes[classes["method"] == method] if method in set(classes["method"]) else classes
    names = shown_classes(shown.drop_duplicates("class"))
    return {
        "pairs": retrieved.counts["pairs"],
        "shown": len(names),
        "classes": classes["class"].nunique(),
        "by_gain": bool(shown["delta"].notna().any()),
        "examples": read_examples(retrieved, names),
    }


def _origin(trained: Artifact | None) -> str:
    if trained is None:
        return "the base"
    steps = trained.counts.get("steps", "?")
    return trained.fingerprint + (f", {steps} steps" if steps != 1 else "")
