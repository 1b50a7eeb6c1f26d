"""Comparison: tables of methods, intervals, and means over domains."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from support.upkeep import edit_domain

from react_pipeline.evaluation import MEAN, EvalResult, compare, comparison_table, evaluate
from react_pipeline.evaluation.tables import to_markdown
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.store import Artifact, MissingArtifact
from react_pipeline.training import customize

GATED, CONTROL = "gated-image", "gated-image-control"


def evaluate_methods(project: Project, slug: str, *methods: str) -> None:
    for method in methods:
        if method != "base":
            customize(project, slug, method)
        evaluate(project, slug, method)


def by_method(comparison: Artifact) -> pd.DataFrame:
    return pd.read_parquet(comparison.file("table.parquet")).set_index("method")


@pytest.fixture
def project(retrieved_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With results of base, gated-image and its control of `shapes`."""
    evaluated = tmp_path_factory.getbasetemp() / "evaluated"
    store = retrieved_project.config.store
    if not evaluated.is_dir():
        evaluate_methods(retrieved_project, "shapes", "base", GATED, CONTROL)
        shutil.copytree(store, evaluated)
    shutil.copytree(evaluated, store, dirs_exist_ok=True)
    return retrieved_project


def test_a_comparison_shows_cost_and_difference_to_the_base(project: Project) -> None:
    artifact = compare(project, "shapes")
    table = by_method(artifact)
    assert table["status"].eq("ok").all() and list(table.index) == ["base", GATED, CONTROL]
    for method, row in table.iterrows():
        result = EvalResult.read(project.store.current("domain_results", f"shapes/{method}"))
        assert (row["top1"], row["top5"], row["n"]) == (result.top1, result.top5, result.n)
        assert row["fingerprint"] == result.checkpoint_fingerprint
        assert row["delta_top1"] == row["top1"] - table.loc["base", "top1"]
        assert row["delta_low"] <= row["delta_top1"] <= row["delta_high"]
    trained = project.store.current("customized_checkpoint", f"shapes/{GATED}").counts
    for cost in ("pairs", "trainable_parameters"):
        assert table.loc[["base", GATED], cost].tolist() == [0, trained[cost]]
    assert pd.read_csv(artifact.file("table.csv"))["top1"].tolist() == table["top1"].tolist()
    assert artifact.counts["top1"] == table["top1"].to_dict()
    assert artifact.file("comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare(project, "shapes").reused


def test_a_stale_result_gives_no_number_and_says_why(project: Project) -> None:
    edit_domain(project, "shapes", customization={"steps": 5})
    table = by_method(compare(project, "shapes"))
    assert table["status"].str.partition(":")[0].tolist() == ["ok", "stale", "stale"]
    assert table.loc[GATED, ["top1", "top5", "delta_top1", "n"]].isna().all()
    assert "steps" in table.loc[GATED, "status"]


def test_an_unavailable_evaluation_set_is_said_and_never_zero(project: Project) -> None:
    with pytest.raises(MissingArtifact, match="`domain_results`"):
        compare(project, "colours")
    edit_domain(project, "shapes", evaluation=None)
    publish_evaluation_set(project, "shapes")
    evaluate(project, "shapes", "base")
    artifact = compare(project, "shapes")
    base = by_method(artifact).loc["base"]
    assert base["status"].startswith("unavailable: no evaluation set")
    assert base[["top1", "delta_top1", "n"]].isna().all()
    assert artifact.counts["top1"] == {}
    assert "0.0" not in artifact.file("table.md").read_text()


def test_the_mean_covers_complete_domains_and_says_how_many(project: Project) -> None:
    evaluate_methods(project, "colours", "base", GATED)
    compare(project, "shapes")
    compare(project, "colours")
    table = comparison_table(project, ["shapes", "colours", "absent"])
    by_domain = {name: rows.set_index("method") for name, rows in table.groupby("domain")}
    means, shapes = by_domain[MEAN], by_domain["shapes"]
    assert means["status"].str[0].to_dict() == {"base": "2", GATED: "1", CONTROL: "1"}
    assert means["status"].str.endswith(" of 3 domains").all()
    figures = [[GATED, CONTROL], ["top1", "delta_top1"]]
    pd.testing.assert_frame_equal(means.loc[*figures], shapes.loc[*figures])
    bases = [by_domain[name].loc["base", "top1"] for name in ("shapes", "colours")]
    assert means.loc["base", "top1"] == pytest.approx(sum(bases) / 2)
    assert means[["delta_low", "delta_high"]].isna().all(axis=None)
    assert "absent" in by_domain["absent"]["status"].item()
    assert to_markdown(table).count("\n") == len(table) + 2


def test_a_comparison_older_than_its_results_is_not_averaged(project: Project) -> None:
    compare(project, "shapes")
    edit_domain(project, "shapes", customization={"steps": 5})
    evaluate_methods(project, "shapes", GATED)
    table = comparison_table(project, ["shapes"])
    assert "does not show today's results: gated-image" in table["status"].item()
    assert table["top1"].isna().all()
