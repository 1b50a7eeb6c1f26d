"""Classes that no caption names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from support.upkeep import edit_domain

from react_pipeline.extensions.names import name_counts
from react_pipeline.extensions.names.assets import classes_are_named
from react_pipeline.extensions.names.name_counts import unnamed_classes
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs


@pytest.mark.parametrize(
    ("caption", "names", "unsaid"),
    [
        # A name that captions say within a longer one is said.
        ("a cub", {"bear": 0, "Polar bear": 1}, []),
        ("a cub", {"bear": 0, "bearded man": 1}, ["bear"]),
        ("a cub", {"bear": 0, "polarbear": 1}, ["bear"]),
        ("a cub", {"bear": 0, "Polar bear": 0}, ["bear", "Polar bear"]),
        # Without captions no class is unnamed.
        (None, {"hammer": 0}, None),
        ("?", {"hammer": 0}, None),
    ],
)
def test_a_class_is_named_by_what_captions_say(
    caption: str | None,
    names: dict[str, int],
    unsaid: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(name_counts, "read_captions", lambda *_: pa.array([caption], pa.string()))
    counts = pd.DataFrame({"class": names.keys(), "name": names.keys(), "captions": names.values()})
    counts["class_id"] = counts.index
    embeddings: Any = SimpleNamespace(counts={"rows": 1})
    assert unnamed_classes(counts, embeddings) == unsaid
    if unsaid and len(unsaid) < len(names):
        counts["class_id"] = 0  # the longer name is a synonym
        assert unnamed_classes(counts, embeddings) == []


def test_a_misspelt_class_is_seen_in_set_and_check(indexed_project: Project) -> None:
    edit_domain(indexed_project, "shapes", classes=["circel", "square"], evaluation=None)
    run(indexed_project, "evaluation_set", "shapes")
    pairs = retrieve_pairs(indexed_project, "shapes")
    assert pairs.counts["unnamed"] == ["circel"]
    report = pairs.file("report.md").read_text()
    assert "no caption of the corpus says circel" in report
    checked = classes_are_named(indexed_project, pairs)
    assert not checked.passed and "circel" in str(checked.description)
    none: Any = SimpleNamespace(counts={})
    assert "not searched" in str(classes_are_named(indexed_project, none).description)
