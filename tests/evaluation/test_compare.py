"""Comparison: tables of methods, intervals, and means over domains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import write_project

from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.domain_results import EvalResult, evaluate
from react_pipeline.evaluation.tables import MEAN, to_markdown, typed
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.control import draw_control
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.errors import MissingArtifact
from react_pipeline.training.customization import customize

GATED, CONTROL = "gated-image", "gated-image-control"


def evaluate_methods(project: Project, slug: str, *methods: str) -> None:
    publish_evaluation_set(project, slug)
    for method in methods:
        if method != "base":
            retrieve_pairs(project, slug)
            if method.endswith("-control"):
                draw_control(project, slug)
            customize(project, slug, method)
        evaluate(project, slug, method)


@pytest.fixture(scope="module")
def compared_store(
    tmp_path_factory: pytest.TempPathFactory,
    _retrieved_store: Path,
    tiny_checkpoint: Path,
    drawings: Path,
) -> Path:
    """A store in which base, gated-image and its control of `shapes` are evaluated, to be copied
    for each test.
    """
    project = write_project(tmp_path_factory.mktemp("compared"), tiny_checkpoint, drawings)
    shutil.copytree(_retrieved_store, project.config.store)
    evaluate_methods(project, "shapes", "base", GATED, CONTROL)
    return project.config.store


@pytest.fixture
def project(tiny_project: Project, compared_store: Path) -> Project:
    shutil.copytree(compared_store, tiny_project.config.store)
    return tiny_project


def edit(project: Project, slug: str, change: Callable[[dict[str, object]], object]) -> None:
    path = project.config.domains / f"{slug}.yaml"
    domain = yaml.safe_load(path.read_text())
    change(domain)
    path.write_text(yaml.safe_dump(domain))


def test_a_comparison_shows_cost_and_difference_to_the_base(
    project: Project,
) -> None:
    artifact = compare(project, "shapes")
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    assert list(table.index) == ["base", GATED, CONTROL]
    assert set(table["status"]) == {"ok"}
    for method, row in table.iterrows():
        result = EvalResult.read(project.store.current("domain_results", f"shapes/{method}"))
        assert (row["top1"], row["top5"], row["n"]) == (result.top1, result.top5, result.n)
        assert row["fingerprint"] == result.checkpoint_fingerprint
        assert row["delta_top1"] == row["top1"] - table.loc["base", "top1"]
        assert row["delta_low"] <= row["delta_top1"] <= row["delta_high"]
    trained = project.store.current("customized_checkpoint", f"shapes/{GATED}").counts
    assert table.loc[GATED, "pairs"] == trained["pairs"]
    assert table.loc[GATED, "trainable_parameters"] == trained["trainable_parameters"]
    assert table.loc["base", ["pairs", "trainable_parameters"]].tolist() == [0, 0]
    csv = pd.read_csv(artifact.file("table.csv"))
    assert csv["top1"].tolist() == table["top1"].tolist()
    assert artifact.counts["top1"] == table["top1"].to_dict()
    assert artifact.file("comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare(project, "shapes").reused


def test_a_stale_result_gives_no_number_and_says_why(project: Project) -> None:
    edit(project, "shapes", lambda domain: domain.update(customization={"steps": 5}))
    artifact = compare(project, "shapes")
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    assert table["status"].str.partition(":")[0].to_dict() == {
        "base": "ok",
        GATED: "stale",
        CONTROL: "stale",
    }
    assert table.loc[GATED, ["top1", "top5", "delta_top1", "n"]].isna().all()
    assert "steps" in table.loc[GATED, "status"]


def test_an_unavailable_evaluation_set_is_said_and_never_zero(project: Project) -> None:
    with pytest.raises(MissingArtifact, match="`domain_results`"):
        compare(project, "colours")
    edit(project, "shapes", lambda domain: domain.pop("evaluation"))
    evaluate_methods(project, "shapes", "base")
    artifact = compare(project, "shapes")
    table = pd.read_parquet(artifact.file("table.parquet")).set_index("method")
    assert table.loc["base", "status"].startswith("unavailable: no evaluation set")
    assert table.loc["base", ["top1", "delta_top1", "n"]].isna().all()
    assert artifact.counts["top1"] == {}
    assert "0.0" not in artifact.file("table.md").read_text()


def test_the_mean_covers_complete_domains_and_says_how_many(
    project: Project,
) -> None:
    evaluate_methods(project, "colours", "base", GATED)
    compare(project, "shapes")
    compare(project, "colours")
    table = comparison_table(project, ["shapes", "colours", "absent"])
    means = table[table["domain"] == MEAN].set_index("method")
    assert means["status"].to_dict() == {
        "base": "2 of 3 domains",
        GATED: "1 of 3 domains",
        CONTROL: "1 of 3 domains",
    }
    shapes = table[table["domain"] == "shapes"].set_index("method")
    for method in (GATED, CONTROL):
        assert means.loc[method, "top1"] == shapes.loc[method, "top1"]
        assert means.loc[method, "delta_top1"] == pytest.approx(shapes.loc[method, "delta_top1"])
    base = table[(table["method"] == "base") & (table["domain"] != MEAN)]
    assert means.loc["base", "top1"] == pytest.approx(base["top1"].mean())
    assert means[["delta_low", "delta_high"]].isna().all(axis=None)
    (absent,) = table[table["domain"] == "absent"].to_dict("records")
    assert "absent" in absent["status"]
    assert to_markdown(table).count("\n") == len(table) + 2


def test_a_comparison_older_than_its_results_is_not_averaged(project: Project) -> None:
    compare(project, "shapes")
    edit(project, "shapes", lambda domain: domain.update(customization={"steps": 5}))
    customize(project, "shapes", GATED)
    evaluate(project, "shapes", GATED)
    table = comparison_table(project, ["shapes"])
    (status,) = table["status"]
    assert "does not show today's results: gated-image" in status
    assert table["top1"].isna().all()


def test_names_cannot_break_the_markdown_table() -> None:
    row = {"domain": "a", "method": "base", "status": "x | y\nz", "top1": 0.123, "n": 1_234}
    table = typed([{**row, "delta_top1": 0.0}])
    text = to_markdown(table)
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert all(figure in text for figure in ("12.3", "+0.0", "1,234"))
