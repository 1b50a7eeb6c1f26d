"""Tables and the figure of one result, which MLflow's pages show and compare.

Does not belong here: what they are made of (`evaluation.domain_results`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

MAX_ROWS = 5_000
"""Rows of a table: MLflow's page loads it whole. The store has all of them."""
MAX_DRAWN_CLASSES = 40
DIGITS = 4


def log_tables(client: MlflowClient, run_id: str, result: Artifact) -> None:
    """Write the tables `per_class`, `confusion` and `predictions` of a `domain_results`, and the
    confusion matrix as a figure. What is there already stays: MLflow would append to a table.
    """
    if "predictions.parquet" not in result.files:
        return  # unavailable
    there = {file.path for file in client.list_artifacts(run_id)}
    classes = pd.read_parquet(result.file("per_class.parquet"))
    answers = pd.read_parquet(result.file("predictions.parquet"))
    predictions = _predictions(answers, classes["class"])
    mistaken = predictions[~predictions["right"]]
    confusion = mistaken.value_counts(["class", "predicted"]).reset_index(name="images")
    tables = {"per_class": classes, "confusion": confusion, "predictions": predictions}
    for name, table in tables.items():
        if f"{name}.json" not in there:
            client.log_table(run_id, table.head(MAX_ROWS).round(DIGITS), f"{name}.json")
    if len(classes) <= MAX_DRAWN_CLASSES and "confusion.png" not in there:
        client.log_figure(run_id, _draw(answers, list(classes["class"])), "confusion.png")


def _predictions(table: pd.DataFrame, names: pd.Series[str]) -> pd.DataFrame:
    """Return a row an image: what is wrong first, and of that the most certain."""
    first = table["predicted"].str[0]
    table = table.assign(
        **{"class": names.loc[table["class_id"]].array, "predicted": names.loc[first].array},
        right=first == table["class_id"],
    ).sort_values(["right", "probability"], ascending=[True, False], kind="stable")
    return table[["image", "class", "predicted", "right", "probability"]]


def _draw(table: pd.DataFrame, names: list[str]) -> Figure:
    """Draw how many images of each class (rows) were taken for which (columns)."""
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    size = 3 + 0.35 * len(names)
    figure = Figure(figsize=(size, size), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        table["class_id"],
        table["predicted"].str[0],
        labels=range(len(names)),
        display_labels=names,
        xticks_rotation="vertical",
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    return figure
