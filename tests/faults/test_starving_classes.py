"""FAULTS 19: an empty retrieved set is refused, and starving classes are named and keep a training
from starting.
"""

from __future__ import annotations

import pytest
from support.upkeep import edit_domain

from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.store import RetrievalError
from react_pipeline.training import customize


def configure(project: Project, **retrieval: object) -> None:
    edit_domain(project, "shapes", retrieval=retrieval)
    publish_evaluation_set(project, "shapes")


def test_an_empty_retrieved_set_is_refused_with_its_classes(
    indexed_project: Project,
) -> None:
    configure(indexed_project, min_similarity={"t2t": 1.1, "t2i": 1.1})
    with pytest.raises(RetrievalError) as raised:
        retrieve_pairs(indexed_project, "shapes")
    reported = str(raised.value)
    names = ("below_similarity", "min_similarity", "circle", "square", "triangle", "cross")
    assert all(name in reported for name in names)
    assert indexed_project.store.keys("retrieved_set") == []


def test_starving_classes_are_named_and_too_many_stop_training(
    indexed_project: Project,
) -> None:
    configure(
        indexed_project,
        modes=["t2t"],
        k_per_prompt=3,
        min_per_class=1_000,
        max_starving_fraction=0.5,
    )
    artifact = retrieve_pairs(indexed_project, "shapes")
    assert artifact.counts["starving"] == ["circle", "square", "triangle", "cross"]
    assert artifact.counts["starving_fraction"] == 1.0
    with pytest.raises(RetrievalError, match="circle"):
        customize(indexed_project, "shapes", "gated-image")
    assert indexed_project.store.keys("customized_checkpoint") == []
