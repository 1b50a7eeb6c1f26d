"""The files of chosen pairs: contact sheets, and what a build that was not published leaves."""

from __future__ import annotations

import shutil
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image
from support.drawings import COLOURS, SHAPES

from react_pipeline.indexing import index
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval import chosen_pairs
from react_pipeline.retrieval.retrieve import retrieve_pairs


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_build_repeats_no_search_and_reuses_no_file(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_evaluation_set(indexed_project, "shapes")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("react_pipeline.store.store.with_digest", interrupted)
        retrieve_pairs(indexed_project, "shapes")
    (shard,) = indexed_project.store.root.glob(".scratch/*/*/built/files/shards/00000.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # of the first image, which no other check sees
    shard.write_bytes(data)
    monkeypatch.setattr(index, "exact_hits", interrupted)
    artifact = retrieve_pairs(indexed_project, "shapes")
    monkeypatch.undo()
    assert not list((indexed_project.store.root / ".scratch").iterdir())
    shutil.rmtree(artifact.path)
    undisturbed = retrieve_pairs(indexed_project, "shapes")
    assert artifact.manifest["files"] == undisturbed.manifest["files"]


def test_further_classes_are_on_sheets_that_the_report_lists(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    many = {"classes": names, "templates": ["a drawing of a {}"], "retrieval": {"k_per_prompt": 5}}
    (indexed_project.config.domains / "many.yaml").write_text(yaml.safe_dump(many))
    publish_evaluation_set(indexed_project, "many")
    monkeypatch.setattr(chosen_pairs, "SHEET_CLASSES", 4)
    monkeypatch.setattr(chosen_pairs, "MAX_SHEETS", 2)
    artifact = retrieve_pairs(indexed_project, "many")
    shown = list(pd.read_parquet(artifact.file("pairs.parquet"))["class"].drop_duplicates())
    assert len(shown) > 8
    assert {name for name in artifact.manifest["files"] if name.endswith(".png")} == {
        *("contact_sheet.png", "contact_sheet_2.png", "similarity.png")
    }
    with (
        Image.open(artifact.file("contact_sheet_2.png")) as second,
        Image.open(artifact.file("contact_sheet.png")) as first,
    ):
        assert first.height == second.height
    page = artifact.file("report.md").read_text()
    assert f"[contact_sheet_2.png](contact_sheet_2.png): {shown[4]} to {shown[7]}" in page
    assert f"- on no sheet: {len(shown) - 8} classes" in page
