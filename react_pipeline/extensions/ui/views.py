"""The saved views of an experiment: each is a tag of it, which MLflow's menu *Views* lists and an
address names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from react_pipeline.tracking import NOTE_TAG, RESULTS_VIEW, shown_differences, view_url

VIEW_TAG = "mlflow.sharedViewState."

_NAMES = ("params.`domain`", "params.`method`")
_WIDTHS = {
    "attributes.`Run Name`": 330,
    "params.`domain`": 110,
    "params.`method`": 180,
}
_METRIC_WIDTH = 170
"""Pixels: a fraction has up to 22 characters. MLflow gives a column 100, and cuts what is longer.
"""


def _results(
    figures: Sequence[str], order: str = "top1", *, ascending: bool = False, group: str = ""
) -> dict[str, Any]:
    """A view of the results, with these columns after domain and method.

    Args:
        order: Figure that the runs are sorted by.
        group: `domain` or `method`: a row for each, which opens on its runs.
    """
    view: dict[str, Any] = {
        "searchFilter": "tags.asset = 'domain_results'",
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": ascending,
        "selectedColumns": [*_NAMES, *(f"metrics.`{name}`" for name in figures)],
        "chartsSearchFilter": "|".join(f"^{name}$" for name in figures),
    }
    if group:
        keys = [{"mode": "param", "groupByData": group}]
        view["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    return view


def _views() -> dict[str, dict[str, Any]]:
    """One view for each question that is asked of an experiment."""
    gains = ("delta_top1", "gain_over_control")
    bounds = [f"{name}{end}" for name in gains for end in ("", "_low", "_high")]
    costs = ("pairs", "trainable_parameters", "training_seconds")
    return {
        RESULTS_VIEW: _results(("top1", *shown_differences(), "mean_per_class", *costs[1:])),
        "methods-of-a-domain": _results(("top1", *gains), group="domain"),
        "method-over-domains": _results(("top1", *gains), group="method"),
        "gain-beside-control": _results(("top1", *bounds), "gain_over_control"),
        "cost": _results(("top1", *gains, *costs), "training_seconds", ascending=True),
        "trainings": {
            "searchFilter": "tags.asset = 'customized_checkpoint'",
            "orderByKey": "attributes.start_time",
            "selectedColumns": [
                *_NAMES,
                "metrics.`training/loss`",
                "metrics.`training_seconds`",
                "metrics.`pairs`",
            ],
            "chartsSearchFilter": "^training/",
        },
    }


def save_views(client: Any, experiment: Any) -> None:
    """Save the views that the experiment lacks, or has from an earlier version, as MLflow's own
    pages save them; its description links to each.
    """
    links = []
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
        name = view.replace("-", " ").capitalize()
        shown = json.dumps({**fixed, **state})
        value = {"name": name, "createdAt": experiment.creation_time or 0, "state": shown}
        if experiment.tags.get(VIEW_TAG + view) != (text := json.dumps(value)):
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG + view, text)
        links.append(f"[{name}]({view_url('', experiment.experiment_id, view).lstrip('/')})")
    if NOTE_TAG not in experiment.tags:  # a person may have written another one
        # MLflow's first page is one of language models; these are of trainings.
        note = f"Views: {', '.join(links)}."
        client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, note)
