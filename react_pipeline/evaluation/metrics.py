"""Metrics: what is measured of the scores that a model gives labelled images; the table of those
there are.

Does not belong here: calibration (`calibration`), the result that holds the values
(`domain_results`). Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension, LazyTable, answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Predictions of a model for labelled images.

    Attributes:
        ranked: The first min(5, C) class ids of each image, best first: (N, K).
        class_ids: True class ids (N,): positions in `class_names`.
        class_names: Names of the domain's classes (C,).
        logits: 100 times the cosines (N, C).
    """

    ranked: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    class_names: Sequence[str]
    logits: NDArray[np.float32]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each of `ranked` is right: (N, K)."""
        right: NDArray[np.bool_] = self.ranked == self.class_ids[:, None]
        return right


@dataclass(frozen=True)
class Metric:
    """A metric of classification: comparisons, the overview and MLflow show it.

    Attributes:
        name: Names the field of results, the column of tables and the metric in MLflow.
        heading: Heads the column that people read, in percent.
        value: Computes the value, a fraction.
        version: To be raised when the same scores get another value: results are measured again.
    """

    name: str
    heading: str
    value: Callable[[Scores], Any]
    version: str = "1"


def _mean_per_class(scores: Scores) -> Any:
    import numpy as np

    first = scores.hits[:, 0]
    return np.mean([first[scores.class_ids == one].mean() for one in np.unique(scores.class_ids)])


OF_CORE = (
    Metric("top1", "top-1 %", lambda scores: scores.hits[:, 0].mean()),
    Metric("top5", "top-5 %", lambda scores: scores.hits.any(axis=1).mean()),
    Metric("mean_per_class", "mean per class %", _mean_per_class),
)


@cache
def _metrics() -> dict[str, Metric]:
    metrics = {metric.name: metric for metric in OF_CORE}

    def add(extension: Extension) -> None:
        new = {metric.name: metric for metric in extension.metrics()}
        for name in new:
            _require_new(name, metrics)
        metrics.update(new)

    answers(add)
    return metrics


def _require_new(name: str, metrics: Mapping[str, Metric]) -> None:
    """Refuse a name that a value of results or a column of comparisons has, or MLflow refuses."""
    # Not at the top: what is due is asked of every project, and these load pandas and SciPy.
    from react_pipeline.evaluation.domain_results import EvalResult
    from react_pipeline.evaluation.tables import COUNTS, DIFFERENCES

    taken = {*metrics, *EvalResult.model_fields, *DIFFERENCES, *COUNTS}
    if not name.isidentifier() or name in taken:
        raise ValueError(f"{name!r} cannot name a metric: use a new name of a-z, 0-9, _")


METRICS: Mapping[str, Metric] = LazyTable(lambda: _metrics())
"""Every metric, by name: the core's first."""


def added_metrics() -> dict[str, str]:
    """Return the versions of extensions' metrics by name: part of the identity of results."""
    core = {metric.name for metric in OF_CORE}
    return {name: metric.version for name, metric in METRICS.items() if name not in core}
