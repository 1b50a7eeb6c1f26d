"""Tables of a comparison: their columns, numbers as people read them, Markdown, and a small
picture.

Does not belong here: where the numbers come from (`comparison`, `all_domains`), HTML (`dashboard`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation.domain_results import METRICS, EvalResult
from react_pipeline.pages import markdown_table
from react_pipeline.settings import CONTROL_SUFFIX

MEAN = "mean"
"""In the column `domain` of the rows that average over domains."""

DIFFERENCES = ("delta_top1", "gain_over_control", "judged_delta", "judged_gain")
INTERVALS = ("top1_low", "top1_high", "delta_low", "delta_high", "gain_low", "gain_high")
COUNTS = ("n", "pairs", "trainable_parameters")
NUMBERS = (
    *METRICS,
    *("delta_top1", "delta_low", "delta_high"),
    *("top1_low", "top1_high", "gain_over_control", "gain_low", "gain_high"),
    *(*COUNTS, "seconds"),
)
JUDGED = tuple(
    name + bound for name in ("judged_delta", "judged_gain") for bound in ("", "_low", "_high")
)
COLUMNS = ["domain", "dataset", "method", *NUMBERS, *JUDGED, "judged", "fingerprint", "status"]
"""Of a comparison: fractions, counts, seconds of the training; `delta_` is to the base, `gain_` to
the control.

`judged_` ones are not measured on labels: a person judged as many pictures as `judged` says."""

CLASS_COLUMNS = [
    "domain",
    "method",
    "class",
    "images",
    "correct",
    "correct_top5",
    "accuracy",
    "delta",
    "pairs",
]
"""Of the table per class: `delta` is the accuracy less the base's, `pairs` what was retrieved for
the class.
"""

_SHOWN = {
    **{
        "domain": "domain",
        "method": "method",
        **METRICS,
        "delta_top1": "delta to base",
        "interval": "95% interval",
    },
    **{"n": "images", "pairs": "pairs", "trainable_parameters": "trainable parameters"},
    **{"seconds": "seconds", "status": "status"},
}
_SHOWN_JUDGED = {
    **{
        "judged_delta": "judged, to base",
        "judged_interval": "95% sequence",
        "judged": "pictures judged",
    }
}


def typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with `COLUMNS`: counts are integers, other numbers floats, empty where
    nothing was measured.
    """
    kinds = dict.fromkeys((*NUMBERS, *JUDGED), "float64") | dict.fromkeys(
        (*COUNTS, "judged"), "Int64"
    )
    return pd.DataFrame(rows, columns=COLUMNS).astype(kinds)


def per_class_table(
    results: Mapping[str, EvalResult], pairs: Mapping[str, Mapping[str, int]]
) -> pd.DataFrame:
    """One row for each method and class, in the order of the domain's classes, with
    `CLASS_COLUMNS`.

    Args:
        results: Of one domain, by method; those that are unavailable have no rows.
        pairs: By method, how many pairs were retrieved for each class; none for the base and for
            controls.
    """
    base = results.get("base")
    known = {entry.name: entry.accuracy for entry in base.per_class} if base is not None else {}
    rows = []
    for method, result in results.items():
        for entry in result.per_class:
            accuracy, reference = entry.accuracy, known.get(entry.name)
            delta = None if accuracy is None or reference is None else accuracy - reference
            retrieved = pairs[method].get(entry.name, 0) if method in pairs else None
            counted = (entry.images, entry.correct, entry.correct_top5)
            rows.append((result.domain, method, entry.name, *counted, accuracy, delta, retrieved))
    table = pd.DataFrame(rows, columns=CLASS_COLUMNS)
    integers = dict.fromkeys(("images", "correct", "correct_top5", "pairs"), "Int64")
    return table.astype({**integers, "accuracy": "float64", "delta": "float64"})


def write_tables(table: pd.DataFrame, directory: Path) -> None:
    """Write `table.parquet`, `table.csv` and `table.md`."""
    table.to_parquet(directory / "table.parquet", index=False)
    table.to_csv(directory / "table.csv", index=False)
    (directory / "table.md").write_text(to_markdown(table), encoding="utf-8")


def draw_methods(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write top-1 by method with its 95% interval as a PNG, for places that show no page; base
    grey, controls pale.

    Where nothing was measured, but judged, it is the judged difference to the base.
    """
    from matplotlib.figure import Figure

    measured = table[table["top1"].notna()]
    label, judged = "top-1 %, zero-shot, with 95% interval", table[table["judged_delta"].notna()]
    if measured.empty and len(judged):
        label = "judged over the base without labels, points, with 95% sequence"
        bounds = {f"top1{bound}": judged[f"judged_delta{bound}"] for bound in ("", "_low", "_high")}
        measured = judged.assign(**bounds)
    figure = Figure(figsize=(7, 0.9 + 0.45 * max(len(measured), 1)), layout="constrained")
    axes = figure.subplots()
    if measured.empty:
        axes.text(0.5, 0.5, "nothing measured", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        shades = [
            "#888888"
            if name == "base"
            else "#9ecae1"
            if name.endswith(CONTROL_SUFFIX)
            else "#08519c"
            for name in measured["method"]
        ]
        top1 = 100 * measured["top1"]
        bars = axes.barh(measured["method"], top1, color=shades)
        if measured["top1_low"].notna().all():
            reach = [
                (top1 - 100 * measured["top1_low"]).tolist(),
                (100 * measured["top1_high"] - top1).tolist(),
            ]
            axes.errorbar(
                top1,
                measured["method"],
                xerr=reach,
                fmt="none",
                ecolor="#333333",
                elinewidth=1,
                capsize=2,
            )
        axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=label, title=title)
    figure.savefig(path, dpi=100)


def to_markdown(table: pd.DataFrame) -> str:
    """The table for people: percent with one decimal, differences with their sign, empty where
    nothing was measured.
    """
    judged = "judged" in table and table["judged"].notna().any()
    shown = _SHOWN | (_SHOWN_JUDGED if judged else {})
    rows = []
    for row in table.to_dict("records"):
        row["interval"] = (
            None if row["method"] == "base" else interval_text(row["delta_low"], row["delta_high"])
        )
        if judged:
            row["judged_interval"] = interval_text(
                row["judged_delta_low"], row["judged_delta_high"]
            )
        rows.append([text_of(column, row[column]) for column in shown])
    return markdown_table(list(shown.values()), rows)


def interval_text(low: Any, high: Any) -> str:
    """An interval in points, such as `+0.8 to +11.9`; empty where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"{points(low)} to {points(high)}"


def points(difference: Any) -> str:
    """A difference of fractions in percentage points, with its sign; empty where nothing was
    measured.
    """
    return "" if pd.isna(difference) else f"{100 * difference:+.1f}".replace("-", "−")


def percent(share: Any) -> str:
    """A fraction in percent, without the sign for it; empty where nothing was measured."""
    return "" if pd.isna(share) else f"{100 * share:.1f}"


def text_of(column: str, value: Any) -> str:
    """A value of a table as people read it."""
    if column in METRICS:
        return percent(value)
    if column in DIFFERENCES:
        return points(value)
    return "" if pd.isna(value) else value if isinstance(value, str) else f"{value:,.0f}"
