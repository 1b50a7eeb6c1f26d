"""Dashboards: self-contained, nothing from outside as markup, the numbers of the tables."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_project
from support.drawings import SHAPES
from support.promotion import publish_results
from support.upkeep import edit_domain

from react_pipeline.corpus import CollectedPairs
from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.tables import table_cells
from react_pipeline.extensions.pages.dashboard import _examples
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import promote
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorruptArtifact

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
BASE, GATED, CONTROL = "base", "gated-image", "gated-image-control"
ANSWERS = {BASE: [False, True] * 10, GATED: [True, True] * 10, CONTROL: [False, True] * 10}


class Page(HTMLParser):
    """What a browser would take for tags, text, and the text of cells."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(artifact.file("dashboard.html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "td" and data.strip():
            self.cells[-1] += data
        if self.lasttag not in ("script", "style"):
            self.text += data


def project_in(directory: Path) -> Project:
    project = write_project(directory, Path("/none"), Path("/none"))
    edit_domain(project, "shapes", classes=["circle", HOSTILE, "$x^2$ <b>bold</b>"])
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return project_in(tmp_path)


@pytest.fixture(scope="module")
def compared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = project_in(tmp_path_factory.mktemp("compared"))
    publish_results(project, "shapes", ANSWERS, captions=[f"{HOSTILE} caption", "<b>plain</b>"])
    compare(project, "shapes")
    return project.config.store


@pytest.fixture
def compared(project: Project, compared_store: Path) -> Artifact:
    shutil.copytree(compared_store, project.config.store)
    return project.store.current("comparison", "shapes")


@pytest.mark.parametrize("made", ["comparison", "overview"])
def test_a_page_runs_and_loads_nothing(  # FAULTS 34
    compared: Artifact, project: Project, made: str
) -> None:
    page = Page(compared if made == "comparison" else overview(project))
    tags = {tag for tag, _ in page.tags}
    assert not {"script", "b", "iframe", "object", "embed"} & tags
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    places = [found.get(name) for _, found in page.tags for name in ("src", "href", "srcset")]
    loaded = {str(place).partition(",")[0] for place in places if place}
    assert loaded <= {"data:", "data:image/jpeg;base64", "data:image/png;base64"} and loaded
    (policy,) = [found["content"] for _, found in page.tags if "http-equiv" in found]
    assert str(policy).startswith("default-src 'none'") and "script" not in str(policy)
    if made == "comparison":
        assert f"{HOSTILE} caption" in page.text and f"{HOSTILE}" in page.cells


def test_numbers_of_the_page_are_those_of_the_table(compared: Artifact) -> None:
    _, rows = table_cells(pd.read_parquet(compared.file("table.parquet")), ("domain", "top5"))
    expected = [str(cell) for row in rows for cell in row]
    assert len(expected) > 20 and Page(compared).cells[: len(expected)] == expected


@pytest.mark.parametrize("classes", [5, 6])
def test_top_5_of_five_classes_or_fewer_is_left_out(project: Project, classes: int) -> None:
    names = [f"shape {number}" for number in range(classes)]
    edit_domain(project, "shapes", classes=names)
    publish_results(project, "shapes", ANSWERS)
    assert ("top-5 %" in Page(compare(project, "shapes")).text) == (classes > 5)


def test_classes_without_a_pair_are_named(compared: Artifact, project: Project) -> None:
    shown = _examples(project.store.current("retrieved_set", "shapes"), ["nothing", "circle"])
    assert shown["empty"] == ["nothing"] and len(shown["examples"]["circle"]) > 0
    assert "Classes without a pair" not in Page(compared).text


def test_no_picture_is_left_out_because_of_the_disk(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise CorruptArtifact("shards/00000.tar (Input/output error)")

    monkeypatch.setattr(CollectedPairs, "encoded", fail)
    with pytest.raises(CorruptArtifact, match="Input/output"):
        _examples(retrieved_project.store.current("retrieved_set", "shapes"), SHAPES)


def test_the_headline_says_what_is_known_and_how_sure(compared: Artifact) -> None:
    text = Page(compared).text
    row = pd.read_parquet(compared.file("table.parquet")).set_index("method").loc[GATED]
    gain = f"+{100 * row['delta_top1']:.1f} points (95% interval +{100 * row['delta_low']:.1f}"
    assert f"gated-image names 100.0% of 20 images right, the base 50.0%: {gain}" in text
    assert "larger than the choice of images" in text
    assert "the retrieved pairs help, not the training alone" in text
    assert "The highest top-1" not in text


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({BASE: [True, False]}, "no customized model is measured"),
        ({GATED: [True, False]}, "names 50.0% of 2 images right; the base was not measured"),
        (
            {BASE: [False, True] * 10, GATED: [False, True] * 10, CONTROL: [True] * 20},
            "random pairs work better",
        ),
    ],
    ids=["base", "alone", "control"],
)
def test_what_is_missing_or_lost_is_said(
    project: Project, right: dict[str, list[bool]], words: str
) -> None:
    publish_results(project, "shapes", right)
    assert words in Page(compare(project, "shapes")).text


def test_the_champion_is_spoken_of(project: Project) -> None:
    right = {BASE: [False, True] * 20, GATED: [True, True] * 20, "full": [True] * 40}
    publish_results(project, "shapes", right)
    assert "gated-image names 100.0%" in Page(compare(project, "shapes")).text
    promote(project, "shapes", "full", "because")
    shutil.rmtree(project.store.current("comparison", "shapes").path)
    text = Page(compare(project, "shapes")).text
    assert "full names 100.0%" in text
    assert "react-pipeline predict shapes FOLDER --model full" in text
