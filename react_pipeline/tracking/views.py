"""Views: the addresses of MLflow's pages, and the saved views of an experiment.

MLflow 3.17 opens an experiment as one of language models, with an empty page of traces, unless the address holds
`workflowType`; no tag changes that. A saved view is a tag of the experiment, which the menu *Views* lists and an
address names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

VIEW_TAG = "mlflow.sharedViewState."
RESULTS_VIEW = "results"

TRAINING_PAGES = "workflowType=machine_learning"
_FIGURES = (
    *("top1", "delta_top1", "gain_over_control", "judged_delta", "mean_per_class"),
    *("trainable_parameters", "training_seconds"),
)
_VIEWS = {
    RESULTS_VIEW: {
        "searchFilter": "tags.asset = 'domain_results'",
        "orderByKey": "metrics.`top1`",
        "selectedColumns": [*("params.`domain`", "params.`method`", *(f"metrics.`{name}`" for name in _FIGURES))],
        "chartsSearchFilter": "|".join(f"^{name}$" for name in _FIGURES),
    },
    "trainings": {
        "searchFilter": "tags.asset = 'customized_checkpoint'",
        "orderByKey": "attributes.start_time",
        "selectedColumns": [
            *("params.`domain`", "params.`method`", "metrics.`training/loss`", "metrics.`training_seconds`"),
            "metrics.`pairs`",
        ],
        "chartsSearchFilter": "^training/",
    },
}


def view_url(address: str, experiment_id: str) -> str:
    """Where the server at `address` shows the view of results."""
    return f"{address}/#/experiments/{experiment_id}/runs?{TRAINING_PAGES}&viewStateShareKey={RESULTS_VIEW}"


def save_views(client: MlflowClient, experiment: Experiment) -> None:
    """Save the views that the experiment lacks, or has from an earlier version, as MLflow's own pages save them."""
    for view, state in _VIEWS.items():
        shown = json.dumps({"orderByAsc": False, "columnOrder": state["selectedColumns"], **state})
        value = {"name": view.capitalize(), "createdAt": experiment.creation_time or 0, "state": shown}
        if experiment.tags.get(VIEW_TAG + view) != (text := json.dumps(value)):
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG + view, text)
