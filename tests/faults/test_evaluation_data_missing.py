"""FAULTS 31: evaluation data that is missing is `unavailable` with its reason, joined by name,
never 0.0.
"""

from __future__ import annotations

import pandas as pd
import pytest
from support.drawings import SHAPES
from support.upkeep import edit_domain

from react_pipeline.clip import publish_base
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.store import StaleArtifact


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (None, "no evaluation set is configured"),
        ({"name": "gone", "kind": "folder", "path": "no/such/folder"}, "no/such/folder"),
        ({"name": "gone", "kind": "manifest", "path": "no/such.csv"}, "no/such.csv"),
    ],
)
def test_a_missing_evaluation_set_is_unavailable_with_reason(
    tiny_project: Project, evaluation: object, reason: str
) -> None:
    edit_domain(tiny_project, "shapes", evaluation=evaluation)
    publish_base(tiny_project)
    published = publish_evaluation_set(tiny_project, "shapes")
    assert read_images(published).empty
    assert published.counts["images"] == 0
    artifact = evaluate(tiny_project, "shapes", "base")
    result = EvalResult.read(artifact)
    assert reason in str(result.unavailable)
    assert (result.top1, result.top5, result.mean_per_class) == (None, None, None)
    assert artifact.counts == {"unavailable": result.unavailable}


def test_another_class_order_stales_the_set_and_keeps_accuracy(
    tiny_project: Project,
) -> None:
    publish_base(tiny_project)
    publish_evaluation_set(tiny_project, "shapes")
    first = evaluate(tiny_project, "shapes", "base")
    edit_domain(tiny_project, "shapes", classes=list(reversed(SHAPES)))
    with pytest.raises(StaleArtifact, match="classes"):
        fresh(tiny_project, "evaluation_set", "shapes")
    with pytest.raises(StaleArtifact):
        evaluate(tiny_project, "shapes", "base")
    publish_evaluation_set(tiny_project, "shapes")
    second = evaluate(tiny_project, "shapes", "base")
    tables = (pd.read_parquet(one.file("per_class.parquet")) for one in (first, second))
    first_table, second_table = (one.sort_values("class", ignore_index=True) for one in tables)
    pd.testing.assert_frame_equal(first_table, second_table)
