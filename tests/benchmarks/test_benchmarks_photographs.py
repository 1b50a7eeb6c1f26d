"""The photographs: which captions name a class, and controls without them."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import photographs
from react_pipeline.corpus import CollectedPairs
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig


def test_captions_name_classes_in_singular_or_plural() -> None:
    classes = [{"name": "kiwi", "synonyms": ["kiwifruit"]}, "tomato", "pear"]
    domain = DomainConfig(slug="fruit", classes=classes)
    captions = pd.Series(["Kiwifruit", "two tomatoes", "pears.jpg", "a pearl", "kiwano"])
    named = captions.str.contains(photographs.naming_classes(domain))
    assert named.tolist() == [True, True, True, False, False]


def test_a_nameless_control_names_no_class(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "naming_classes", lambda _: "circle|disc")
    other = photographs.beside(retrieved_project, "nameless", 1)
    captions = [
        pair.caption for pair in CollectedPairs(photographs.draw_nameless(other, "shapes", 1))
    ]
    assert captions and not any("circle" in one or "disc" in one for one in captions)
