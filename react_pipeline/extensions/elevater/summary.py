"""Means of the benchmark's figures over seeds and data sets, and their table.

Does not belong here: measuring (`measuring`), the difference to the base (`comparison`).
"""

import numpy as np
import pandas as pd

from react_pipeline.pages import escaped, markdown_table

from .datasets import DATASETS
from .experiments import Experiment

SUMMARY_COLUMNS = [
    "dataset",
    "experiment",
    "protocol",
    "metric",
    "value",
    "spread",
    "seeds",
    "n",
    "expected",
    "images",
    "status",
]


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each experiment and protocol on each data set; `rows` are those of
    `results.parquet`.

    A mean covers all seeds: where one could not be measured there is no value, and `status` says
    why.

    Returns:
        `SUMMARY_COLUMNS`; `spread` is the standard deviation over seeds (0 for one), `status` `ok`
        or the reason.
    """
    summary = []
    keys = ["dataset", "adaptation", "shots", "protocol"]
    for (_, adaptation, shots, _), group in rows.groupby(keys, sort=False):
        failed = group[group["value"].isna()]
        values = group["value"].astype("float64")
        row = group.iloc[0].to_dict()
        row |= {"experiment": Experiment(adaptation, int(shots)).name, "seeds": len(group)}
        row |= {"value": values.mean(), "spread": values.std(ddof=0), "status": "ok"}
        if len(failed):
            several = f"{len(failed)} of {len(group)} seeds: " if len(group) > 1 else ""
            reason = several + str(failed["unavailable"].iloc[0])
            row |= {"value": np.nan, "spread": np.nan, "status": reason}
        summary.append(row)
    return pd.DataFrame(summary, columns=SUMMARY_COLUMNS)


def mean_over_datasets(summary: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """For each experiment and protocol the mean over the data sets of the 20 that were measured,
    and their number.

    ImageNet is never averaged with them. An experiment measured on none has no entry.
    """
    measured = summary[(summary["status"] == "ok") & summary["dataset"].isin(list(DATASETS))]
    groups = with_figures(measured).groupby("figure", sort=False)["value"]
    return {figure: (float(group.mean()), len(group)) for figure, group in groups}


def fewer_images(summary: pd.DataFrame) -> int:
    """How many data sets have fewer test images than officially: their figures are not the
    benchmark's.
    """
    return int(summary[summary["n"].between(1, summary["expected"] - 1)]["dataset"].nunique())


def figure_name(experiment: str, protocol: str) -> str:
    """Of a column of figures: `zero-shot`, `linear-probe-5.clean`."""
    return experiment if protocol == experiment else f"{experiment}.{protocol}"


def with_figures(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with a column `figure`, the `figure_name` of each row."""
    return summary.assign(figure=list(map(figure_name, summary["experiment"], summary["protocol"])))


def to_markdown(summary: pd.DataFrame) -> str:
    """The table for people: percent with one decimal, means with their number of data sets;
    problems below.
    """
    labelled = with_figures(summary)
    figures = list(dict.fromkeys(labelled["figure"]))
    means = mean_over_datasets(summary)
    rows = []
    for name, group in labelled.groupby("dataset", sort=False):
        cells = {row.figure: _cell(row.value, row.spread, row.seeds) for row in group.itertuples()}
        rows.append(
            [name, group["metric"].iloc[0], _images(group), *(cells[key] for key in figures)]
        )
    shown = [
        f"{100 * means[name][0]:.1f} ({means[name][1]} of {len(DATASETS)})"
        if name in means
        else "–"
        for name in figures
    ]
    columns = ["data set", "metric", "images", *(f"{name} %" for name in figures)]
    table = markdown_table(columns, [*rows, ["mean", "", "", *shown]])
    missing = labelled[labelled["status"] != "ok"].drop_duplicates(["dataset", "status"])
    reasons = "".join(
        f"- {row.dataset}, {row.figure}: {escaped(row.status)}\n" for row in missing.itertuples()
    )
    if few := fewer_images(summary):
        whole = int((summary.groupby("dataset")["n"].max() > 0).sum())
        table += (
            f"\nFewer test images than officially: {few} of {whole} data sets that are there. "
            "Such a figure is not the "
            "benchmark's, nor is a mean over it.\n"
        )
    return table + (f"\nNot measured:\n\n{reasons}" if reasons else "")


def _images(group: pd.DataFrame) -> str:
    images = int(group["n"].max())
    expected = int(group["expected"].iloc[0])
    return (
        "–"
        if not images
        else f"{images:,}"
        if images == expected
        else f"{images:,} of {expected:,}"
    )


def _cell(value: float, spread: float, seeds: int) -> str:
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f} ± {100 * spread:.1f}" if seeds > 1 else f"{100 * value:.1f}"
