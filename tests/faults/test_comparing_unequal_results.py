"""FAULTS 32: results of other evaluators or other evaluation sets are refused, naming which."""

from __future__ import annotations

import pandas as pd
import pytest

from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.evaluation.comparison import (
    compare,
    require_comparable,
    require_same_images,
)
from react_pipeline.evaluation.domain_results import EvalResult, evaluate
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError


def result(method: str, **fields: str) -> EvalResult:
    about = {
        "evaluator_version": "1",
        "evaluation_set_fingerprint": "aa",
        "dataset": "pets",
        **fields,
    }
    return EvalResult(
        domain="pets", method=method, checkpoint_fingerprint=method, n_classes=3, **about
    )


@pytest.mark.parametrize("field", ["evaluator_version", "evaluation_set_fingerprint", "dataset"])
def test_results_measured_differently_are_refused_with_names(
    field: str,
) -> None:
    require_comparable([result("base"), result("full")])
    with pytest.raises(InputError) as raised:
        require_comparable([result("base"), result("full", **{field: "other"})])
    assert all(word in str(raised.value) for word in ("base", "full: other", field))


def test_results_of_other_images_are_not_paired() -> None:
    one, other = (pd.Series([True, False], index=["a.png", name]) for name in ("b.png", "c.png"))
    require_same_images("pets", {"base": one, "full": one})
    for different in (other, one.iloc[:1]):
        with pytest.raises(InputError, match="different images"):
            require_same_images("pets", {"base": one, "full": different})


def test_results_of_different_evaluators_are_not_averaged(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slug, version in (("shapes", "1"), ("colours", "2")):
        monkeypatch.setattr("react_pipeline.evaluation.domain_results.EVALUATOR_VERSION", version)
        publish_evaluation_set(indexed_project, slug)
        evaluate(indexed_project, slug, "base")
        compare(indexed_project, slug)
    with pytest.raises(InputError, match="shapes: 1, colours: 2"):
        comparison_table(indexed_project, ["shapes", "colours"])
