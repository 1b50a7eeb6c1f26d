"""The saved views of an experiment: each is a tag of it, which MLflow's menu *Views* lists and an
address names.
"""

from __future__ import annotations

import json
from typing import Any

from react_pipeline.tracking import NOTE_TAG, RESULTS_VIEW, shown_differences

VIEW_TAG = "mlflow.sharedViewState."

_NOTE = (
    "Press **Model training** at the top left, then open **Runs**, and **Results** in the menu "
    "*Views*."
)
"""Description of the experiment, on MLflow's first page, which is one of language models."""

_WIDTHS = {
    "attributes.`Run Name`": 330,
    "params.`domain`": 110,
    "params.`method`": 180,
}
_METRIC_WIDTH = 170
"""Pixels: a fraction has up to 22 characters. MLflow gives a column 100, and cuts what is longer.
"""


def _views() -> dict[str, dict[str, Any]]:
    costs = ("mean_per_class", "trainable_parameters", "training_seconds")
    figures = ("top1", *shown_differences(), *costs)
    return {
        RESULTS_VIEW: {
            "searchFilter": "tags.asset = 'domain_results'",
            "orderByKey": "metrics.`top1`",
            "selectedColumns": [
                "params.`domain`",
                "params.`method`",
                *(f"metrics.`{name}`" for name in figures),
            ],
            "chartsSearchFilter": "|".join(f"^{name}$" for name in figures),
        },
        "trainings": {
            "searchFilter": "tags.asset = 'customized_checkpoint'",
            "orderByKey": "attributes.start_time",
            "selectedColumns": [
                "params.`domain`",
                "params.`method`",
                "metrics.`training/loss`",
                "metrics.`training_seconds`",
                "metrics.`pairs`",
            ],
            "chartsSearchFilter": "^training/",
        },
    }


def save_views(client: Any, experiment: Any) -> None:
    """Save the views that the experiment lacks, or has from an earlier version, as MLflow's own
    pages save them.
    """
    for view, state in _views().items():
        order = ["attributes.`Run Name`", *state["selectedColumns"]]
        widths = {column: _WIDTHS.get(column, _METRIC_WIDTH) for column in order}
        # Charts draw only the first ten runs otherwise.
        fixed = {
            "orderByAsc": False,
            "columnOrder": order,
            "columnWidths": widths,
            "runsHiddenMode": "SHOW_ALL",
        }
        shown = json.dumps({**fixed, **state})
        value = {
            "name": view.capitalize(),
            "createdAt": experiment.creation_time or 0,
            "state": shown,
        }
        if experiment.tags.get(VIEW_TAG + view) != (text := json.dumps(value)):
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG + view, text)
    if NOTE_TAG not in experiment.tags:  # a person may have written another one
        client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, _NOTE)
