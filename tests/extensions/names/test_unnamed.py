"""Classes that no caption names."""

from __future__ import annotations

from collections.abc import Sequence
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


def unnamed_of(
    monkeypatch: pytest.MonkeyPatch, captions: Sequence[str | None], *classes: list[tuple[str, int]]
) -> Any:
    """`classes` are lists of names, the first one the label, with how many captions say each."""
    table = pa.array(captions, pa.string())
    monkeypatch.setattr(
        name_counts, "read_captions", lambda _, rows: table.slice(rows[0], rows[1] - rows[0])
    )
    rows = [(number, names[0][0], *name) for number, names in enumerate(classes) for name in names]
    counts = pd.DataFrame(rows, columns=["class_id", "class", "name", "captions"])
    embeddings: Any = SimpleNamespace(counts={"rows": len(captions)})
    return unnamed_classes(counts, embeddings)


@pytest.mark.parametrize(
    ("longer", "unsaid"), [("Polar bear", []), ("bearded man", ["bear"]), ("polarbear", ["bear"])]
)
def test_a_name_that_captions_say_within_a_longer_one_is_said(
    longer: str, unsaid: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unnamed_of(monkeypatch, [f"a {longer}"], [("bear", 0)], [(longer, 1)]) == unsaid
    assert unnamed_of(monkeypatch, ["a cub"], [("bear", 0)], [(longer, 0)]) == ["bear", longer]
    assert unnamed_of(monkeypatch, ["a cub"], [("bear", 0), ("cub", 1)]) == []  # by a synonym


def test_a_corpus_without_captions_names_and_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert unnamed_of(monkeypatch, [None, "", "?"], [("hammer", 0)]) is None


def test_a_misspelt_class_is_seen_in_set_and_check(indexed_project: Project) -> None:
    edit_domain(indexed_project, "shapes", classes=["circel", "square"], evaluation=None)
    run(indexed_project, "evaluation_set", "shapes")
    pairs = retrieve_pairs(indexed_project, "shapes")
    assert pairs.counts["unnamed"] == ["circel"]
    report = pairs.file("report.md").read_text()
    assert "no caption of the corpus says circel" in report
    checked = classes_are_named(indexed_project, pairs)
    assert not checked.passed and "circel" in str(checked.description)
