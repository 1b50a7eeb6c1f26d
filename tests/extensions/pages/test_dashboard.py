"""Dashboards: self-contained, nothing from outside as markup, the numbers of the tables; and the
overview of all domains: means, what they cover, and whether it is still current.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import write_project
from support.drawings import SHAPES
from support.promotion import publish_results
from support.upkeep import edit_domain

from react_pipeline.corpus import CollectedPairs
from react_pipeline.evaluation import comparison as comparing
from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.intervals import (
    count_gains,
    mean_interval,
    paired_interval,
    share_interval,
)
from react_pipeline.evaluation.tables import INTERVALS, MEAN, columns, table_cells
from react_pipeline.extensions.pages import overview as overviewing
from react_pipeline.extensions.pages.dashboard import _examples
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import promote
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact, StaleArtifact

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


def test_the_headline_says_what_is_known_and_how_sure(compared: Artifact) -> None:
    text = Page(compared).text
    row = pd.read_parquet(compared.file("table.parquet")).set_index("method").loc[GATED]
    gain = f"+{100 * row['delta_top1']:.1f} points (95% interval +{100 * row['delta_low']:.1f}"
    assert f"gated-image names 100.0% of 20 images right, the base 50.0%: {gain}" in text
    assert "larger than the choice of images" in text
    assert "the retrieved pairs help, not the training alone" in text
    assert "The highest top-1" not in text


def test_a_control_that_does_better_is_said(project: Project) -> None:
    publish_results(project, "shapes", {**ANSWERS, CONTROL: [True] * 20, GATED: ANSWERS[BASE]})
    assert "random pairs work better" in Page(compare(project, "shapes")).text


def test_a_control_that_is_missing_is_said(project: Project) -> None:
    publish_results(project, "shapes", {BASE: ANSWERS[BASE], GATED: ANSWERS[GATED]})
    text = Page(compare(project, "shapes")).text
    assert "No control" in text and "nan" not in text


def test_a_loss_and_a_base_that_is_missing_are_said(project: Project) -> None:
    publish_results(project, "shapes", {GATED: [False] * 20})
    assert "the base was not measured" in Page(compare(project, "shapes")).text
    assert "No customized model can be compared" in Page(overview(project)).text
    publish_results(project, "shapes", {BASE: [True] * 20, GATED: [False] * 20})
    assert "The loss against the base is larger" in Page(compare(project, "shapes")).text


def test_the_champion_is_spoken_of(project: Project) -> None:
    right = {BASE: [False, True] * 20, GATED: [True, True] * 20, "full": [True] * 40}
    publish_results(project, "shapes", right)
    assert "gated-image names 100.0%" in Page(compare(project, "shapes")).text
    promote(project, "shapes", "full", "because")
    shutil.rmtree(project.store.current("comparison", "shapes").path)
    text = Page(compare(project, "shapes")).text
    assert "full names 100.0%" in text
    assert "react-pipeline predict shapes FOLDER --model full" in text


def answers(
    *shares: float, methods: Sequence[str] = ("base", GATED, CONTROL)
) -> dict[str, list[bool]]:
    return {
        method: [position < share * 40 for position in range(40)]
        for method, share in zip(methods, shares, strict=False)
    }


def publish(project: Project, slug: str, *shares: float) -> Artifact:
    publish_results(project, slug, answers(*shares))
    return compare(project, slug)


def test_means_say_how_many_of_how_many_and_how_sure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(project, "shapes", 0.25, 0.5, 0.25)
    publish(project, "colours", 0.5, 0.6)
    expected = comparison_table(project, ["colours", "shapes"])
    # It reads comparisons, and no results.
    monkeypatch.setattr(comparing, "read_correct", None)
    monkeypatch.setattr(comparing.EvalResult, "read", None)
    artifact = overview(project)
    table = pd.read_parquet(artifact.file("table.parquet"))
    assert list(table) == columns()
    kept = [name for name in columns() if name not in INTERVALS]
    pd.testing.assert_frame_equal(
        table[kept].fillna("-"), expected[kept].fillna("-"), check_dtype=False
    )
    means = table[table["domain"] == MEAN].set_index("method")
    status = {"base": "2 of 2 domains", **dict.fromkeys((GATED, CONTROL), "1 of 2 domains")}
    assert artifact.counts["covers"] == means["status"].to_dict() == status
    assert "1 of 2 domains" in artifact.file("dashboard.html").read_text()
    assert artifact.counts["top1"][GATED] == means.loc[GATED, "top1"] == 0.5
    for low, value, high in (
        ("delta_low", "delta_top1", "delta_high"),
        ("gain_low", "gain_over_control", "gain_high"),
    ):
        assert means.loc[GATED, low] < means.loc[GATED, value] < means.loc[GATED, high]
    assert np.isnan(means.loc["base", "delta_low"]) and np.isnan(means.loc[CONTROL, "gain_low"])


def test_the_interval_of_a_mean_resamples_each_set_by_itself() -> None:
    random = np.random.default_rng(0)
    pairs = [(random.random(n) < 0.6, random.random(n) < 0.4) for n in (60, 200)]
    differences = [one.astype(int) - other.astype(int) for one, other in pairs]
    by_hand = [
        np.mean([random.choice(d, len(d)).mean() for d in differences]) for _ in range(4_000)
    ]
    gains = [count_gains(*pair) for pair in pairs]
    np.testing.assert_allclose(
        mean_interval(gains), np.percentile(by_hand, [2.5, 97.5]), atol=0.012
    )
    low, high = mean_interval(gains[:1])
    np.testing.assert_allclose((low, high), paired_interval(gains[0]), atol=0.02)


def test_the_interval_of_a_share_stays_within_it() -> None:
    assert share_interval(0.0, 10)[0] == 0.0
    assert share_interval(1.0, 10)[1] == pytest.approx(1.0) and share_interval(1.0, 10)[1] <= 1.0
    np.testing.assert_allclose(share_interval(0.5, 100), (0.4038, 0.5962), atol=1e-4)


def test_a_missing_comparison_is_named_and_stales_the_overview(
    project: Project,
) -> None:
    publish(project, "shapes", 0.25, 0.5)
    first = overview(project)
    assert list(first.counts["skipped"]) == ["colours"] and first.counts["domains_known"] == 2
    assert overviewing.overview_is_current(project) == first and overview(project).reused
    publish(project, "colours", 0.5)
    with pytest.raises(StaleArtifact, match=r"results: colours \(changed\)"):
        overviewing.overview_is_current(project)
    both = overview(project)
    assert both.fingerprint != first.fingerprint
    shutil.rmtree(project.store.root / "comparison" / "colours")
    with pytest.raises(StaleArtifact, match=r"results: colours \(.*`comparison`"):
        overviewing.overview_is_current(project)
    assert overview(project) == first
    (project.config.domains / "colours.yaml").unlink()
    assert overview(project).counts["domains_known"] == 1


@pytest.mark.parametrize("is_cut", [True, False])
def test_spoilt_comparison_is_named_and_other_domains_are_shown(
    project: Project, is_cut: bool
) -> None:
    with pytest.raises(MissingArtifact, match="materialize `comparison`"):
        overview(project)
    publish(project, "colours", 0.25, 0.5)
    spoilt = publish(project, "shapes", 0.25, 0.5).file("table.parquet")
    spoilt.write_bytes(b"spoilt" if is_cut else bytes(spoilt.stat().st_size))
    shown = overview(project).counts
    assert shown["domains"] == 1 and "table.parquet" in shown["skipped"]["shapes"]


def test_the_table_per_class_has_each_method_with_difference(
    project: Project,
) -> None:
    artifact = publish(project, "shapes", 0.25, 0.5, 0.25)
    classes = pd.read_parquet(artifact.file("per_class.parquet"))
    base, gated, control = (classes[classes["method"] == one] for one in ("base", GATED, CONTROL))
    assert list(base["class"]) == list(gated["class"]) == project.domain("shapes").class_names
    gain = gated["accuracy"].to_numpy() - base["accuracy"].to_numpy()
    np.testing.assert_allclose(gated["delta"], gain)
    assert set(gated["pairs"]) == {1} and pd.concat([base, control])["pairs"].isna().all()


def test_the_deviation_over_seeds_is_that_of_their_means(tmp_path: Path) -> None:
    project = write_project(tmp_path, tmp_path / "none", tmp_path / "none", seeds=[0, 1, 2])
    seeds = [GATED, f"{GATED}-seed1", f"{GATED}-seed2"]
    for slug, right in {"shapes": (0.5, 0.6, 0.7), "colours": (0.9, 0.8, 0.7)}.items():
        publish_results(project, slug, answers(0.25, *right, methods=["base", *seeds]))
        assert "over 3 of them" in compare(project, slug).file("dashboard.html").read_text()
    artifact = overview(project)
    table = pd.read_parquet(artifact.file("table.parquet"))
    first = table[table["method"] == GATED].set_index("domain")
    assert first.loc["shapes", ["top1_mean", "top1_std"]].tolist() == pytest.approx([0.6, 0.1])
    # Each seed has the same mean over the two domains.
    names = ["top1_mean", "top1_std", "delta_top1_mean"]
    assert first.loc[MEAN, names].tolist() == pytest.approx([0.7, 0.0, 0.45])
    assert list(first["seeds"]) == [3, 3, 3]
    assert table.loc[table["method"].isin(["base", *seeds[1:]]), "seeds"].isna().all()
    assert "60.0 (± 10.0)" in artifact.file("table.md").read_text()


def test_no_picture_is_left_out_because_of_the_disk(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = CorruptArtifact("shards/00000.tar (Input/output error)")
    monkeypatch.setattr(CollectedPairs, "encoded", Mock(side_effect=fault))
    with pytest.raises(CorruptArtifact, match="Input/output"):
        _examples(retrieved_project.store.current("retrieved_set", "shapes"), SHAPES)
