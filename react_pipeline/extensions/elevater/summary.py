"""Means of the benchmark's figures over seeds and data sets, and their table.

Does not belong here: measuring (`measuring`), the difference to the base (`comparison`).
"""

import numpy as np
import pandas as pd

from react_pipeline.pages import escaped, markdown_table

from .datasets import DATASETS
from .experiments import Experiment

SUMMARY_COLUMNS = [
    *("dataset", "experiment", "protocol", "metric", "value", "spread", "seeds"),
    *("n", "expected", "images", "status"),
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
    """Return for each experiment and protocol the mean over the data sets of the 20 that were
    measured, and their number.

    ImageNet is never averaged with them. An experiment measured on none has no entry.
    """
    measured = summary[(summary["status"] == "ok") & summary["dataset"].isin(list(DATASETS))]
    groups = with_figures(measured).groupby("figure", sort=False)["value"]
    return {figure: (float(group.mean()), len(group)) for figure, group in groups}


def fewer_images(summary: pd.DataFrame) -> int:
    """Count the data sets with fewer test images than officially: their figures are not the
    benchmark's.
    """
    return int(summary[summary["n"].between(1, summary["expected"] - 1)]["dataset"].nunique())


def with_figures(summary: pd.DataFrame) -> pd.DataFrame:
    """Add a column `figure`: `zero-shot`, `linear-probe-5.clean`."""
    experiments, protocols = summary["experiment"], summary["protocol"]
    names = experiments.where(experiments == protocols, experiments + "." + protocols)
    return summary.assign(figure=names)


def to_markdown(summary: pd.DataFrame) -> str:
    """Return the table for people: percent with one decimal, means with their number of data sets;
    problems below.
    """
    labelled = with_figures(summary)
    values = labelled["value"].map("{:.1%}".format, na_action="ignore")
    spreads = labelled["spread"].where(labelled["seeds"] > 1)
    spreads = spreads.map(" ± {:.1%}".format, na_action="ignore").fillna("")
    labelled["cell"] = (values + spreads).fillna("–")
    means = mean_over_datasets(summary)
    figures = labelled["figure"].unique()
    rows = []
    for name, group in labelled.groupby("dataset", sort=False):
        n, expected = int(group["n"].max()), int(group["expected"].iloc[0])
        images = f"{n:,}" if n in (0, expected) else f"{n:,} of {expected:,}"
        cells = group.set_index("figure")["cell"].reindex(figures)
        rows.append([name, group["metric"].iloc[0], images, *cells])
    shown = [
        "{:.1%} ({} of {})".format(*means[name], len(DATASETS)) if name in means else "–"
        for name in figures
    ]
    columns = ["data set", "metric", "images", *figures]
    text = markdown_table(columns, [*rows, ["mean", "", "", *shown]])
    if few := fewer_images(summary):
        text += (
            f"\nFewer test images than officially: {few} of {len(rows)} data sets. Such a figure is "
            "not the benchmark's, nor is a mean over it.\n"
        )
    missing = labelled[labelled["status"] != "ok"].drop_duplicates(["dataset", "status"])
    reasons = "".join(
        f"- {row.dataset}, {row.figure}: {escaped(row.status)}\n" for row in missing.itertuples()
    )
    return text + (f"\nNot measured:\n\n{reasons}" if reasons else "")
