"""The files of chosen pairs: contact sheets, and what a finished build that was not published is
good for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image
from support_drawings import COLOURS, SHAPES
from support_retrieval import configure

from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval import chosen_pairs, retrieve
from react_pipeline.retrieval.chosen_pairs import MAX_SHEETS, SHEET_CLASSES, sheets_of
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.store import Store


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def finished(indexed_project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The staging directory of a retrieved set that is finished and not published."""
    publish_evaluation_set(indexed_project, "shapes")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "_publish", interrupted)
        retrieve_pairs(indexed_project, "shapes")
    (left,) = (path for path in indexed_project.store.staging.iterdir() if path.is_dir())
    return left


def test_a_finished_build_is_published_without_choosing_again(
    indexed_project: Project, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve, "find_candidates", interrupted)
    artifact = retrieve_pairs(indexed_project, "shapes")
    assert len(list(CollectedPairs(artifact))) == artifact.counts["pairs"] > 0


@pytest.mark.parametrize("harm", ["gone", "cut", "flipped"])
def test_a_finished_build_that_lost_something_since_is_made_again(
    indexed_project: Project, finished: Path, harm: str
) -> None:
    shard = finished / "shards" / "00000.tar"
    if harm == "gone":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[600] ^= 1  # of the first image, which no other check sees
        shard.write_bytes(data if harm == "flipped" else data[:-512])
    images = [pair[1] for pair in CollectedPairs(retrieve_pairs(indexed_project, "shapes"))]
    shutil.rmtree(indexed_project.config.store / "retrieved_set")
    assert (
        images
        == [pair[1] for pair in CollectedPairs(retrieve_pairs(indexed_project, "shapes"))]
        != []
    )


def test_another_configuration_uses_nothing_of_a_finished_build(
    indexed_project: Project, finished: Path
) -> None:
    configure(indexed_project, max_per_class=1)
    assert retrieve_pairs(indexed_project, "shapes").counts["pairs"] <= len(SHAPES)
    assert finished.exists()


def test_further_classes_are_on_further_sheets_that_the_report_lists(
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


@pytest.mark.parametrize(
    ("classes", "sheets"), [(0, 1), (1, 1), (12, 1), (13, 2), (397, 34), (1_000, MAX_SHEETS)]
)
def test_every_class_up_to_a_bound_is_on_one_sheet(classes: int, sheets: int) -> None:
    pairs = pd.DataFrame({"class": [f"class {number // 2}" for number in range(2 * classes)]})
    found = sheets_of(pairs)
    assert len(found) == sheets and len(dict(found)) == sheets
    shown = [name for _, names in found for name in names]
    assert shown == [
        f"class {number}" for number in range(min(classes, MAX_SHEETS * SHEET_CLASSES))
    ]
