"""Dashboards: self-contained, nothing from outside as markup, the numbers of the tables."""

from __future__ import annotations

import re
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
from react_pipeline.evaluation.tables import cell_text
from react_pipeline.extensions.dashboard.examples import (
    MAX_POINTS,
    read_curves,
    read_examples,
    shown_classes,
)
from react_pipeline.extensions.dashboard.figures import plain
from react_pipeline.extensions.dashboard.overview import overview
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.errors import CorruptArtifact
from react_pipeline.store.store import Store

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ANSWERS = {
    "base": [False, True] * 10,
    "gated-image": [True, True] * 10,
    "gated-image-control": [False, True] * 10,
}


class Page(HTMLParser):
    """What a browser would take for tags, and the numbers in cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[tuple[str, str]] = []
        self.column = ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        found = dict(attrs)
        self.column = str(found.get("data-column") or "")

    def handle_data(self, data: str) -> None:
        if self.column:
            self.cells.append((self.column, data))
            self.column = ""
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
    assert "alert(1)</script>" not in raw and "<script>alert" not in raw
    assert not [found for _, found in page.tags if any(name.startswith("on") for name in found)]
    assert not [tag for tag, _ in page.tags if tag in ("b", "iframe", "object", "embed")][
        len(tiles(raw)) :
    ]
    assert f"{HOSTILE} caption" in page.text
    assert {str(found["src"]).split(",")[0] for tag, found in page.tags if tag == "img"} == {
        "data:image/jpeg;base64"
    }


def tiles(raw: str) -> list[str]:
    return re.findall("class='tile'><b>", raw)


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
    assert not [tag for tag, found in page.tags if tag == "script" and "src" in found]
    (policy,) = [
        found["content"] for tag, found in page.tags if tag == "meta" and "http-equiv" in found
    ]
    assert str(policy).startswith("default-src 'none'")
    assert "Plotly.newPlot" in artifact.file("dashboard.html").read_text()


def test_numbers_of_the_page_are_those_of_the_table(compared: Artifact) -> None:
    table = pd.read_parquet(compared.file("table.parquet"))
    shown = page_of(compared).cells
    for column in ("top1", "mean_per_class", "delta_top1", "gain_over_control", "n", "pairs"):
        values = [cell_text(column, value) for value in table[column].dropna()]
        assert values and [text for name, text in shown if name == column] == values


@pytest.mark.parametrize("classes", [5, 6])
def test_top_5_of_five_classes_or_fewer_is_left_out(project: Project, classes: int) -> None:
    path = project.config.domains / "shapes.yaml"
    names = [f"shape {number}" for number in range(classes)]
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": names}))
    publish_results(project, "shapes", ANSWERS)
    page = page_of(compare(project, "shapes"))
    assert ("top5" in dict(page.cells)) == ("Top-5 %" in page.text) == (classes > 5)


def test_no_column_pushes_the_table_of_domains_over_the_page(
    compared: Artifact, project: Project
) -> None:
    raw = overview(project).file("dashboard.html").read_text()
    assert "Top-5 %" not in Page(raw[raw.index("<h2>Domains</h2>") :]).text


def test_methods_that_move_no_class_are_reported_and_not_drawn(project: Project) -> None:
    publish_results(project, "shapes", {**ANSWERS, "gated-image": ANSWERS["base"]})
    page = page_of(compare(project, "shapes"))
    assert "No class moved: each has the accuracy that the base has." in page.text
    assert "classes" not in [found.get("id") for _, found in page.tags]
    assert "All 3 classes" in page.text


def test_a_method_that_moves_no_class_is_no_choice_of_figure(compared: Artifact) -> None:
    page = page_of(compared)
    assert "No class moved with gated-image-control." in page.text
    assert "classes" in [found.get("id") for _, found in page.tags]


def test_pictures_are_there_before_anybody_scrolls_to_them(compared: Artifact) -> None:
    assert "loading=" not in re.sub(
        "<script.*?</script>", "", compared.file("dashboard.html").read_text(), flags=re.S
    )


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
    assert (
        "<h1>Drawn &lt;/script&gt;" in raw
        and "one domain: shapes" in raw
        and "alert(1)</script>" not in raw
    )


def test_names_reach_a_figure_without_tags_and_short() -> None:
    assert plain("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert len(plain("x" * 500)) == 40


def test_shown_classes_are_the_most_and_least_gained() -> None:
    classes = pd.DataFrame(
        {"class": [f"c{number:02d}" for number in range(30)], "delta": range(30)}
    )
    assert shown_classes(classes, 6) == ["c29", "c28", "c27", "c02", "c01", "c00"]
    assert shown_classes(classes.head(4), 9) == ["c03", "c02", "c01", "c00"]


def test_curves_are_thinned_by_averaging(project: Project, tmp_path: Path) -> None:
    def checkpoint(method: str, lines: str) -> Artifact:
        def write(folder: Path, _: object) -> dict[str, int]:
            (folder / "metrics.jsonl").write_text(lines)
            return {}

        return Store(tmp_path).build(Inputs("checkpoint", method, {}, {}, "1"), write)

    lines = "".join(f'{{"step": {step}, "loss": {step}}}\n' for step in range(1_000))
    curve = read_curves({"full": checkpoint("full", lines)})["full"]
    assert len(curve) <= MAX_POINTS
    assert curve["step"].tolist() == curve["loss"].tolist()
    assert curve["loss"].iloc[0] == 2.0
    fit = checkpoint("gda", '{"step": 0, "loss": 0.0}\n')
    assert not read_curves({"gda": fit}), "no training"


def test_no_picture_is_left_out_because_of_the_disk(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise CorruptArtifact("shards/00000.tar (Input/output error)")

    monkeypatch.setattr(CollectedPairs, "encoded", fail)
    with pytest.raises(CorruptArtifact, match="Input/output"):
        read_examples(retrieved_project.store.current("retrieved_set", "shapes"), SHAPES)
