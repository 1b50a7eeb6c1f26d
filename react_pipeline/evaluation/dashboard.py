"""Dashboards: a comparison, or the overview of all domains, as one HTML page that needs nothing but itself.

Belongs here: what stands on a page and in which order; escaping. Does not belong here: figures (`dashboard_figures`),
pictures (`dashboard_examples`), the words at its head (`reports.findings`), style sheet (`dashboard_style`).

A page holds plotly's script and every picture, and its policy forbids the browser to load anything. Class names,
captions, file names and reasons come from outside: they reach the page through `html.escape` or as data of a figure,
and never as markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.evaluation.dashboard_examples import Example, read_curves, read_examples, shown_classes
from react_pipeline.evaluation.dashboard_figures import (
    classes_figure,
    costs_figure,
    curves_figure,
    domains_figure,
    methods_figure,
    moved_methods,
    trained_methods,
)
from react_pipeline.evaluation.dashboard_style import POLICY, STYLE
from react_pipeline.evaluation.findings import Finding, find_in_domain, find_over_domains
from react_pipeline.evaluation.tables import COUNTS, MEAN, METRICS, interval_text, percent, points
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

MAX_CLASS_ROWS = 500
"""Classes listed on the page; the rest is in `per_class.csv`."""

_HEADINGS = {
    **{"domain": "Domain", "method": "Method", "top1": "Top-1 %", "top5": "Top-5 %"},
    **{"mean_per_class": "Per class %", "delta_top1": "Over base", "gain_over_control": "Over control"},
    **{"n": "Images", "pairs": "Pairs", "trainable_parameters": "Trained parameters", "seconds": "Seconds"},
}
_ALWAYS_IN_TOP5 = 5  # classes: with so few the right one is always among the first five

_INTERVAL_OF = {"top1": "top1", "delta_top1": "delta", "gain_over_control": "gain"}


def domain_page(
    slug: str,
    table: pd.DataFrame,
    classes: pd.DataFrame,
    checkpoints: Mapping[str, Artifact],
    retrieved: Artifact | None,
    results: Mapping[str, str],
    title: str = "",
) -> str:
    """The page of one domain.

    Args:
        slug: The domain.
        table: Of `compare`.
        classes: Its table per class.
        checkpoints: The trained model behind each method's result.
        retrieved: The pairs that the methods were trained on; None where nothing was trained on retrieved pairs.
        results: Fingerprint of each method's result.
        title: Of the domain, as it was when the page was built; empty: the slug stands for it.
    """
    finding = find_in_domain(table)
    methods = trained_methods(table, finding.method)
    head = _head(title or slug, f"Comparison of methods on one domain: {slug}", finding)
    blocks = [head, _tiles(table, finding.method)]
    if table["top1"].notna().any():
        text = (
            "Zero-shot: an image gets the class whose prompts lie nearest. Bars are 95% intervals; the dotted line is "
            "the base. A control is trained on random pairs: a gain that it shares is no gain of retrieval."
        )
        blocks.append(_section("Methods", text, _drawn("methods", methods_figure(table))))
    few = classes["class"].nunique() <= _ALWAYS_IN_TOP5
    blocks.append(_section("The same in numbers", "", _table(table, ("domain", "top5") if few else ("domain",))))
    if methods:
        text = "Up is better, left is cheaper. The base is the dotted line: it costs nothing."
        blocks.append(_section("Accuracy against what it costs", text, _drawn("costs", costs_figure(table))))
    if methods and classes["delta"].notna().any():
        blocks.append(_classes(classes, methods))
    if curves := read_curves(checkpoints):
        text = "Of the trainings behind these results. Losses of different kinds do not lie on one scale."
        blocks.append(_section("Training", text, _drawn("curves", curves_figure(curves))))
    if retrieved is not None:
        shown = classes[classes["method"] == finding.method] if finding.method else classes
        names = shown_classes(shown.drop_duplicates("class")) if len(shown) else []
        text = f"The most similar of {retrieved.counts['pairs']:,} pairs that the class names found in the corpus"
        text += f". {len(names)} of {classes['class'].nunique()} classes: most gained first, most lost last."
        blocks.append(_section("What was retrieved", text, _example_grid(read_examples(retrieved, names))))
    blocks.append(_provenance(results, checkpoints, table))
    return _page(f"{title or slug}: comparison", blocks)


def overview_page(table: pd.DataFrame, comparisons: Mapping[str, str]) -> str:
    """The page of all domains.

    Args:
        table: Of `overview`: the rows of the domains, then those of the means.
        comparisons: Fingerprint of each domain's comparison.
    """
    finding = find_over_domains(table)
    means, domains = table[table["domain"] == MEAN], table[table["domain"] != MEAN]
    blocks = [_head("All domains", "Comparison of methods over all domains", finding), _tiles(means, finding.method)]
    if finding.method:
        text = "Difference to the base with its 95% interval. The diamond is the mean over the domains."
        blocks.append(_section(finding.method, text, _drawn("domains", domains_figure(table, finding.method))))
    if not means.empty:
        text = "A mean covers the domains where base, method and its control are all measured; it says how many."
        blocks.append(_section("Means", text, _table(means, ("domain", "n"), status="Covers")))
    if trained_methods(means, ""):
        text = "Means over domains. Up is better, left is cheaper; the dotted line is the base."
        blocks.append(_section("Accuracy against what it costs", text, _drawn("costs", costs_figure(means))))
    # With top-5 the table would be wider than the page; it stands on the page of each domain.
    blocks.append(_section("Domains", "", _table(domains, ("top5",))))
    for method in trained_methods(means, finding.method)[1:]:
        if not method.endswith(CONTROL_SUFFIX):
            blocks.append(_section(method, "", _drawn(f"domains-{method}", domains_figure(table, method))))
    rows = "".join(
        f"<tr><td>{_text(slug)}</td><td><code>{_text(name)}</code></td></tr>" for slug, name in comparisons.items()
    )
    blocks.append(f"<section class='quiet'><h2>Made from</h2><table>{rows}</table></section>")
    return _page("All domains: overview", blocks)


def _classes(classes: pd.DataFrame, methods: Sequence[str]) -> str:
    """The classes that gained and lost most, and all of them folded away."""
    if not (moved := moved_methods(classes, methods)):
        return _section("Classes", "No class moved: each has the accuracy that the base has.", _class_table(classes))
    text = "The largest changes against the base. A class with few images moves far by one image: see the table."
    if still := [method for method in methods if method not in moved]:
        text += f" No class moved with {', '.join(still)}."
    return _section("Classes", text, _drawn("classes", classes_figure(classes, moved)), _class_table(classes))


def _head(title: str, kind: str, finding: Finding) -> str:
    details = "".join(f"<li>{_text(sentence)}</li>" for sentence in finding.details)
    return (
        f"<header><p class='kind'>{_text(kind)}</p><h1>{_text(title)}</h1>"
        f"<p class='headline'>{_text(finding.headline)}</p><ul class='details'>{details}</ul></header>"
    )


def _tiles(table: pd.DataFrame, method: str) -> str:
    """The three numbers that matter, of the method that is spoken of."""
    found = table[table["method"] == method]
    if found.empty:
        return ""
    row = found.iloc[0]
    tiles = []
    for name, label, shown in (
        ("top1", f"top-1 of {method}", f"{percent(row['top1'])}%"),
        ("delta_top1", "over the base", points(row["delta_top1"])),
        ("gain_over_control", "over its control", points(row["gain_over_control"])),
    ):
        if pd.isna(row[name]):
            continue
        low, high = (row[f"{_INTERVAL_OF[name]}_{end}"] for end in ("low", "high"))
        interval = (
            f"{percent(low)} to {percent(high)}" if name == "top1" and not pd.isna(low) else interval_text(low, high)
        )
        tiles.append(
            f"<div class='tile'><b>{_text(shown)}</b><span>{_text(label)}</span>"
            f"<small>{_text(f'95%: {interval}') if interval else '&nbsp;'}</small></div>"
        )
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _table(table: pd.DataFrame, left_out: Sequence[str], status: str = "") -> str:
    used = [name for name in _HEADINGS if name in ("domain", "method") or table[name].notna().any()]
    used = [name for name in used if name not in left_out]
    told = bool(status) or not (table["status"] == "ok").all()
    head = "".join(f"<th{_numeric(name)}>{_HEADINGS[name]}</th>" for name in used) + f"<th>{_text(status)}</th>" * told
    body = []
    for row in table.to_dict("records"):
        cells = "".join(_cell(name, row) for name in used)
        last = f"<td class='status'>{_text('' if row['status'] == 'ok' else row['status'])}</td>" * told
        body.append(f"<tr{_row_class(row['method'])}>{cells}{last}</tr>")
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row[name]
    if name in ("domain", "method"):
        return f"<td>{_text(value)}</td>"
    if pd.isna(value) or (name == "delta_top1" and row["method"] == "base"):
        return "<td class='number'></td>"
    shown = percent(value) if name in METRICS else points(value) if name in _INTERVAL_OF else f"{value:,.0f}"
    interval = ""
    if (prefix := _INTERVAL_OF.get(name)) and not pd.isna(row[f"{prefix}_low"]):
        low, high = row[f"{prefix}_low"], row[f"{prefix}_high"]
        interval = f"{percent(low)} to {percent(high)}" if name == "top1" else interval_text(low, high)
    small = f"<small>{interval}</small>" if interval else ""
    exact = int(value) if name in COUNTS and float(value).is_integer() else float(value)
    return f"<td class='number' data-column='{name}' data-value='{exact!r}'>{shown}{small}</td>"


def _class_table(classes: pd.DataFrame) -> str:
    """Accuracy of every class by method, folded away; differences to the base behind it."""
    methods = list(classes["method"].unique())
    names = list(classes["class"].unique())
    by_method = {method: rows.set_index("class") for method, rows in classes.groupby("method")}
    head = "<th>Class</th><th class='number'>Images</th>" + "".join(
        f"<th class='number'>{_text(m)}</th>" for m in methods
    )
    body = []
    for name in names[:MAX_CLASS_ROWS]:
        images = int(next(by_method[method].loc[name, "images"] for method in methods))
        cells = "".join(_class_cell(by_method[method].loc[name], method) for method in methods)
        body.append(f"<tr><td>{_text(name)}</td><td class='number'>{images:,}</td>{cells}</tr>")
    cut = f"; the first {MAX_CLASS_ROWS}, all are in per_class.csv" if len(names) > MAX_CLASS_ROWS else ""
    return (
        f"<details><summary>All {len(names):,} classes, accuracy in % and difference to the base{cut}</summary>"
        f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></details>"
    )


def _class_cell(row: pd.Series, method: str) -> str:
    if pd.isna(row["accuracy"]):
        return "<td class='number'></td>"
    delta = (
        "" if method == "base" or pd.isna(row["delta"]) else f" <small class='inline'>{points(row['delta'])}</small>"
    )
    return f"<td class='number'>{percent(row['accuracy'])}{delta}</td>"


def _example_grid(examples: Sequence[Example]) -> str:
    cards = []
    for label, pairs in groupby(examples, key=lambda one: one.label):
        pictures = "".join(
            f"<figure><img src='{one.picture}' alt=''>"
            f"<figcaption title='{_text(one.caption)}'>{_text(one.caption)}</figcaption></figure>"
            for one in pairs
        )
        cards.append(f"<div class='card'><h3>{_text(label)}</h3><div class='pictures'>{pictures}</div></div>")
    return f"<div class='cards'>{''.join(cards)}</div>"


def _provenance(results: Mapping[str, str], checkpoints: Mapping[str, Artifact], table: pd.DataFrame) -> str:
    rows = []
    for method, fingerprint in results.items():
        trained = checkpoints.get(method)
        about = (
            f"{trained.fingerprint}, {trained.counts.get('steps', '?')} steps" if trained is not None else "the base"
        )
        rows.append(
            f"<tr><td>{_text(method)}</td><td><code>{_text(fingerprint)}</code></td><td>{_text(about)}</td></tr>"
        )
    sets = ", ".join(sorted({str(name) for name in table["dataset"].dropna()})) or "none"
    return (
        f"<section class='quiet'><h2>Made from</h2><p>Labelled images: {_text(sets)}. Differences are bounded by a "
        "paired bootstrap over images, accuracies by Wilson's interval.</p><table><thead><tr><th>Method</th>"
        f"<th>Result</th><th>Checkpoint</th></tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _section(title: str, text: str, *parts: str) -> str:
    lead = f"<p>{_text(text)}</p>" if text else ""
    return f"<section><h2>{_text(title)}</h2>{lead}{''.join(parts)}</section>"


def _drawn(name: str, figure: Figure) -> str:
    from plotly.io import to_html  # type: ignore[import-untyped, unused-ignore]

    # A name of its own, because plotly draws one at random and equal inputs should give equal bytes.
    options = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    drawn: str = to_html(
        figure, config=options, full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=name
    )
    return f"<div class='plot'>{drawn}</div>"


def _page(title: str, blocks: Iterable[str]) -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped, unused-ignore]

    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>{''.join(blocks)}</main></body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(" ".join(str(value).split()), quote=True)


def _numeric(name: str) -> str:
    return "" if name in ("domain", "method") else " class='number'"


def _row_class(method: object) -> str:
    return " class='control'" if str(method).endswith(CONTROL_SUFFIX) else ""
