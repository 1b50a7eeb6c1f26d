"""Dashboards: self-contained, nothing from outside as markup, the numbers of the tables."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import write_project
from support.drawings import SHAPES
from support.results import publish_results

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
ANSWERS = {
    "base": [False, True] * 10,
    "gated-image": [True, True] * 10,
    "gated-image-control": [False, True] * 10,
}


class Page(HTMLParser):
    """What a browser would take for tags, text, and the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)

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
    path = project.config.domains / "shapes.yaml"  # with three classes
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "classes": ["circle", HOSTILE, "$x^2$ <b>bold</b>"]}))
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


def page_of(artifact: Artifact) -> Page:
    return Page(artifact.file("dashboard.html").read_text())


def test_nothing_from_a_class_name_or_caption_is_markup(compared: Artifact) -> None:  # FAULTS 34
    raw = compared.file("dashboard.html").read_text()
    page = Page(raw)
    assert not [found for _, found in page.tags if any(name.startswith("on") for name in found)]
    assert not {"script", "b", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert f"{HOSTILE} caption" in page.text and HOSTILE in page.text
    assert {str(found["src"]).split(",")[0] for tag, found in page.tags if tag == "img"} == {
        "data:image/jpeg;base64",
        "data:image/png;base64",
    }


@pytest.mark.parametrize("made", ["comparison", "overview"])
def test_a_page_needs_nothing_but_itself(compared: Artifact, project: Project, made: str) -> None:
    artifact = compared if made == "comparison" else overview(project)
    page = page_of(artifact)
    loaded = [
        str(found[name])
        for _, found in page.tags
        for name in ("src", "href", "srcset", "data")
        if found.get(name)
    ]
    assert not [address for address in loaded if not address.startswith("data:")]
    (policy,) = [
        found["content"] for tag, found in page.tags if tag == "meta" and "http-equiv" in found
    ]
    assert str(policy).startswith("default-src 'none'") and "script" not in str(policy)


def test_numbers_of_the_page_are_those_of_the_table(compared: Artifact) -> None:
    table = pd.read_parquet(compared.file("table.parquet"))
    _, rows = table_cells(table, ("domain", "top5"))
    expected = [str(cell) for row in rows for cell in row]
    assert len(expected) > 20 and page_of(compared).cells[: len(expected)] == expected


@pytest.mark.parametrize("classes", [5, 6])
def test_top_5_of_five_classes_or_fewer_is_left_out(project: Project, classes: int) -> None:
    path = project.config.domains / "shapes.yaml"
    names = [f"shape {number}" for number in range(classes)]
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": names}))
    publish_results(project, "shapes", ANSWERS)
    page = page_of(compare(project, "shapes"))
    assert ("top-5 %" in page.text) == (classes > 5)


def test_no_column_pushes_the_table_of_domains_over_the_page(
    compared: Artifact, project: Project
) -> None:
    raw = overview(project).file("dashboard.html").read_text()
    assert "top-5 %" not in Page(raw[raw.index("<h2>Domains</h2>") :]).text


def test_classes_are_listed_by_what_they_gained(project: Project) -> None:
    right = {"base": [True, False, False] * 6, "gated-image": [True, False, True] * 6}
    publish_results(project, "shapes", right)
    page = page_of(compare(project, "shapes"))
    names = project.domain("shapes").class_names
    listed = page.text[page.text.index("3 of 3 classes") :]
    places = [listed.index(" ".join(name.split())) for name in names]
    assert places[2] < min(places[:2])


def test_classes_without_a_pair_are_named(compared: Artifact, project: Project) -> None:
    retrieved = next(iter(project.store.keys("retrieved_set")))
    shown = _examples(project.store.current("retrieved_set", retrieved), ["nothing", "circle"])
    assert shown["empty"] == ["nothing"] and len(shown["examples"]["circle"]) > 0
    assert "Classes without a pair" not in page_of(compared).text


def test_the_champion_is_spoken_of(project: Project) -> None:
    right = {"base": [False, True] * 20, "gated-image": [True, True] * 20, "full": [True] * 40}
    publish_results(project, "shapes", right)
    assert "<p class='headline'>gated-image" in page_text(compare(project, "shapes"))
    promote(project, "shapes", "full", "because")
    shutil.rmtree(project.store.current("comparison", "shapes").path)
    raw = page_text(compare(project, "shapes"))
    assert "<p class='headline'>full" in raw
    assert "react-pipeline predict shapes FOLDER --model full" in raw


def page_text(artifact: Artifact) -> str:
    return artifact.file("dashboard.html").read_text()


def test_the_headline_says_what_is_known_and_how_sure(compared: Artifact) -> None:
    text = page_of(compared).text
    row = pd.read_parquet(compared.file("table.parquet")).set_index("method").loc["gated-image"]
    gain = f"+{100 * row['delta_top1']:.1f} points (95% interval +{100 * row['delta_low']:.1f}"
    assert f"gated-image names 100.0% of 20 images right, the base 50.0%: {gain}" in text
    assert "larger than the choice of images" in text
    assert "the retrieved pairs help, not the training alone" in text
    assert "The highest top-1" not in text


def test_a_page_of_results_that_are_unavailable_says_so(project: Project) -> None:
    publish_results(project, "shapes", {"base": [True, False]})
    text = page_of(compare(project, "shapes")).text
    assert "no customized model is measured" in text


def test_a_control_that_is_better_is_named(project: Project) -> None:
    right = {"base": [False, True], "gated-image": [False, True], "gated-image-control": [True] * 2}
    publish_results(project, "shapes", {name: one * 10 for name, one in right.items()})
    assert "random pairs work better" in page_of(compare(project, "shapes")).text


def test_a_page_of_a_base_that_is_unavailable_says_so(project: Project) -> None:
    publish_results(project, "shapes", {"gated-image": [True, False]})
    text = page_of(compare(project, "shapes")).text
    assert "gated-image names 50.0% of 2 images right; the base was not measured" in text


def test_the_heading_is_the_escaped_title_and_no_identity(
    compared: Artifact, project: Project
) -> None:
    assert "<h1>shapes</h1>" in compared.file("dashboard.html").read_text()
    path = project.config.domains / "shapes.yaml"
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "title": f"Drawn {HOSTILE}"})
    )
    again = compare(Project.load(project.path), "shapes")
    assert again.fingerprint == compared.fingerprint and again.reused
    shutil.rmtree(compared.path)
    raw = compare(Project.load(project.path), "shapes").file("dashboard.html").read_text()
    assert "<h1>Drawn &lt;/script&gt;" in raw and "one domain: shapes" in raw


def test_no_picture_is_left_out_because_of_the_disk(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise CorruptArtifact("shards/00000.tar (Input/output error)")

    monkeypatch.setattr(CollectedPairs, "encoded", fail)
    with pytest.raises(CorruptArtifact, match="Input/output"):
        _examples(retrieved_project.store.current("retrieved_set", "shapes"), SHAPES)
