"""Tables of a comparison: their columns, numbers as people read them, Markdown, a small picture,
and which method is spoken of.

Does not belong here: where the numbers come from (`comparison`, `all_domains`), HTML and sentences
(extensions).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from react_pipeline.evaluation.metrics import METRICS
from react_pipeline.pages import markdown_table
from react_pipeline.settings import CONTROL_SUFFIX, first_seed
from react_pipeline.store import Artifact

MEAN = "mean"
"""The column `domain` of rows that average over domains holds this."""

COUNTS = ("n", "pairs", "trainable_parameters")
BOUNDS = {
    "top1": ("top1_low", "top1_high"),
    "delta_top1": ("delta_low", "delta_high"),
    "gain_over_control": ("gain_low", "gain_high"),
}
INTERVALS = tuple(bound for bounds in BOUNDS.values() for bound in bounds)
DIFFERENCES = ("delta_top1", "gain_over_control", *INTERVALS)

EVIDENCE_DIFFERENCES = {
    "guard_delta": "on guard sets, over base",
    "judged_delta": "judged over base",
    "judged_gain": "judged over control",
}
"""Differences between models that are not measured on the domain's labelled images (`Evidence`),
with their headings; each has bounds `<name>_low` and `<name>_high`.
"""

JUDGED = "judged"
"""Column that counts the pictures behind the judged differences."""

EVIDENCE_COLUMNS = (
    *(name + end for name in EVIDENCE_DIFFERENCES for end in ("", "_low", "_high")),
    JUDGED,
)

SEED_FIGURES = {
    "top1_mean": "top-1 %, all seeds",
    "delta_top1_mean": "over base, all seeds",
    "gain_over_control_mean": "over control, all seeds",
}
"""Columns of means over the seeds of a method, with their headings. Each has its sample standard
deviation in a column `<name>_std`; `seeds` says of how many.
"""

SEED_COLUMNS = (
    "seeds",
    *(name for mean in SEED_FIGURES for name in (mean, mean.removesuffix("_mean") + "_std")),
)
"""What `over_seeds` adds."""

CLASS_COLUMNS = [
    *("domain", "method", "class", "images", "correct", "correct_top5", "accuracy", "delta"),
    "pairs",
]
"""Columns of the table per class: `delta` is the accuracy less the base's, `pairs` what was
retrieved for the class.
"""


def numbers() -> list[str]:
    """Return the columns of fractions and counts that are measured on labelled images."""
    return [*METRICS, *DIFFERENCES, *COUNTS]


def columns() -> list[str]:
    """Return the columns of a comparison: fractions and counts. Times are in manifests and MLflow
    alone, so that equal results give equal tables.

    `delta_` is the difference to the base, `gain_` that to the control. Those of evidence are not
    measured on labelled images.
    """
    first = ("domain", "dataset", "method")
    return [*first, *numbers(), *EVIDENCE_COLUMNS, "fingerprint", "status"]


def headings() -> dict[str, str]:
    """Return the columns that people see, in this order, where they hold anything."""
    return {
        "domain": "domain",
        "method": "method",
        **{name: metric.heading for name, metric in METRICS.items()},
        "delta_top1": "over base",
        "gain_over_control": "over control",
        "seeds": "seeds",
        **SEED_FIGURES,
        **EVIDENCE_DIFFERENCES,
        JUDGED: "pictures judged",
        "n": "images",
        "pairs": "pairs",
        "trainable_parameters": "trained parameters",
    }


def typed(rows: Any, counts: str = "Int64") -> pd.DataFrame:
    """Make rows a table with `columns`: numbers are floats, empty where nothing was measured.

    Args:
        counts: The dtype of counts; `float64` where they are averaged.
    """
    kinds = dict.fromkeys((*numbers(), *EVIDENCE_COLUMNS), "float64")
    kinds |= dict.fromkeys((*COUNTS, JUDGED), counts)
    return pd.DataFrame(rows, columns=columns()).astype(kinds)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Add `SEED_COLUMNS` to the row of a method's first seed: mean and standard deviation over the
    seeds that are measured there, of as many domains. Without further seeds the table stays as it
    is.
    """
    first = table["method"].map(first_seed)
    if (first == table["method"]).all():
        return table
    keys = ["domain", "method", "status"]
    figures = [mean.removesuffix("_mean") for mean in SEED_FIGURES]
    seeds = table[table["top1"].notna()].assign(method=first).groupby(keys)[figures]
    columns = [
        seeds.size().rename("seeds"),
        # A figure that one seed lacks has no mean.
        seeds.agg(lambda values: values.mean(skipna=False)).add_suffix("_mean"),
        seeds.agg(lambda values: values.std(skipna=False)).add_suffix("_std"),
    ]
    added = pd.concat(columns, axis=1).reindex(columns=SEED_COLUMNS).astype("float64")
    return table.join(added[added["seeds"] > 1], on=keys)


def per_class_table(
    slug: str, results: Mapping[str, Artifact], retrieved: Mapping[str, Artifact]
) -> pd.DataFrame:
    """Return one row for each method and class, in the order of the domain's classes, with
    `CLASS_COLUMNS`.

    Args:
        results: Of the domain, by method; those that are unavailable have no rows.
        retrieved: By method, the retrieved set that it was trained on; none for the base and for
            controls.
    """
    tables = [pd.DataFrame()]
    for method, result in results.items():
        if "unavailable" in result.counts:
            continue
        table = pd.read_parquet(result.file("per_class.parquet"))
        table = table.assign(domain=slug, method=method)
        if method in retrieved:
            pairs = pd.read_parquet(retrieved[method].file("pairs.parquet"), columns=["class"])
            counts = pairs["class"].value_counts()
            table["pairs"] = table["class"].map(counts).fillna(0)
        tables.append(table)
    classes = pd.concat(tables).reindex(columns=CLASS_COLUMNS)
    integers = dict.fromkeys(("images", "correct", "correct_top5", "pairs"), "Int64")
    classes = classes.astype({**integers, "accuracy": "float64"})
    base = classes[classes["method"] == "base"].set_index("class")["accuracy"]
    return classes.assign(delta=classes["accuracy"] - classes["class"].map(base))


def present_values(column: pd.Series) -> dict[str, float]:
    """Return the values of a column by its index, without those that are missing."""
    values: dict[str, float] = column.dropna().to_dict()
    return values


def write_tables(table: pd.DataFrame, directory: Path) -> None:
    """Write `table.parquet`, `table.csv` and `table.md`."""
    table.to_parquet(directory / "table.parquet", index=False)
    table.to_csv(directory / "table.csv", index=False)
    (directory / "table.md").write_text(to_markdown(table), encoding="utf-8")


def draw_methods(table: pd.DataFrame, path: Path, title: str) -> None:
    """Draw top-1 by method, with its interval if there is one, of further seeds none, as a PNG for
    places that show no page.
    """
    from matplotlib.figure import Figure

    rows = table[table["top1"].notna() & (table["method"].map(first_seed) == table["method"])]
    # Grey for the base, a pale colour for controls, a dark one for other methods.
    colours = [
        "#888888" if name == "base" else "#9ecae1" if name.endswith(CONTROL_SUFFIX) else "#08519c"
        for name in rows["method"]
    ]
    figure = Figure(figsize=(7, 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    if rows.empty:
        axes.text(0.5, 0.5, "no accuracy was measured", ha="center", transform=axes.transAxes)
    value, low, high = (100 * rows[name] for name in ("top1", *BOUNDS["top1"]))
    axes.hlines(rows["method"], low, high, colors=colours, linewidth=3)
    axes.scatter(value, rows["method"], color=colours, zorder=2)
    for row, number in enumerate(value):
        axes.annotate(f"{number:.1f}", (number, row - 0.15), ha="center", fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.margins(x=0.12)
    bars = ", with 95% interval" if low.notna().any() else ""
    axes.set(xlabel=f"top-1 %{bars}", title=title)
    figure.savefig(path, dpi=100)


class Cell(NamedTuple):
    """A value of a table as people read it.

    Attributes:
        text: Percent with one decimal, a difference in points with its sign; empty where nothing
            was measured.
        interval: Such as `+0.8 to +11.9`; empty where there is none.
    """

    column: str
    text: str
    interval: str

    def __str__(self) -> str:
        """With the interval in parentheses."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


def to_markdown(table: pd.DataFrame) -> str:
    """Write the table for people, with its status."""
    heads, rows = table_cells(table)
    lines = zip(rows, table["status"], strict=True)
    texts = [[*map(str, cells), status] for cells, status in lines]
    return markdown_table([*heads.values(), "status"], texts)


def table_cells(
    table: pd.DataFrame, left_out: Collection[str] = ()
) -> tuple[dict[str, str], list[list[Cell]]]:
    """Return headings by column, and the rows; of the columns that hold anything, domain and method
    always.
    """
    every = headings()
    shown = [name for name in every if name in table and name not in left_out]
    filled = [name for name in shown if table[name].notna().any() or name in ("domain", "method")]
    rows = [
        [Cell(name, _text(name, row[name]), _interval(name, row)) for name in filled]
        for row in table.to_dict("records")
    ]
    return {name: every[name] for name in filled}, rows


def _text(column: str, value: Any) -> str:
    measured = column.removesuffix("_mean")
    if measured in METRICS:
        return percent(value)
    if measured in DIFFERENCES or column in EVIDENCE_DIFFERENCES:
        return points(value)
    if pd.isna(value):
        return ""
    return value if isinstance(value, str) else f"{value:,.0f}"


def _interval(name: str, row: Mapping[Any, Any]) -> str:
    if name == "delta_top1" and row["method"] == "base":
        return ""
    if name in SEED_FIGURES:
        deviation = row[name.removesuffix("_mean") + "_std"]
        return "" if pd.isna(deviation) else f"± {percent(deviation)}"
    bounds = BOUNDS.get(name, (f"{name}_low", f"{name}_high"))
    low, high = map(row.get, bounds)
    if name == "top1":
        return "" if pd.isna(low) else f"{percent(low)} to {percent(high)}"
    return interval_text(low, high)


def interval_text(low: Any, high: Any) -> str:
    """Return an interval in points, such as `+0.8 to +11.9`; empty where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"{points(low)} to {points(high)}"


def interval_in_words(low: float, high: float) -> str:
    """Return an interval in points as sentences name it."""
    text = interval_text(low, high)
    return f"95% interval {text}" if text else "no interval"


def points(difference: Any) -> str:
    """Return a difference of fractions in percentage points, with its sign; empty where nothing was
    measured.
    """
    return "" if pd.isna(difference) else f"{100 * difference:+.1f}"


def percent(share: Any) -> str:
    """Return a fraction in percent, without the sign for it; empty where nothing was measured."""
    return "" if pd.isna(share) else f"{100 * share:.1f}"


HEADLINE_METHOD = "gated-image"
"""The paper's own. It is fixed beforehand: the best of many methods is partly the luckiest one."""


@dataclass(frozen=True)
class Finding:
    """A headline and the sentences below it; `method` is the one they speak of ("" if none was
    measured).
    """

    method: str
    headline: str
    details: tuple[str, ...]


def is_trained(name: str) -> bool:
    """Whether it is a trained method by its first seed: neither the base nor a control."""
    return name != "base" and not name.endswith(CONTROL_SUFFIX) and first_seed(name) == name


def headline_method(table: pd.DataFrame) -> str:
    """Return the trained method that a report speaks of: `gated-image`, else the first that was
    measured, else "".
    """
    trained = [name for name in table.loc[table["top1"].notna(), "method"] if is_trained(name)]
    return HEADLINE_METHOD if HEADLINE_METHOD in trained else next(iter(trained), "")
