"""The methods benchmark: what is made is not made again, and the table says what the rows say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import methods as benchmark
from benchmarks.demo_proof import SHARED
from benchmarks.methods import Row
from react_pipeline.project.project import Project

DOMAINS = ("shapes", "colours")


def test_what_a_store_holds_is_not_made_again(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = retrieved_project
    for stage in SHARED:  # a store that has one domain
        (project.config.store / stage).mkdir(exist_ok=True)
    one = benchmark.store_of_arm(project, "keep", 1)
    work = (1, "shapes", "gated-image")
    row = benchmark.row_of(one, work)
    assert isinstance(row, Row)
    assert min(row.trainable_parameters, row.seconds) > 0
    monkeypatch.setattr(benchmark, "customize_with_pairs", None)
    again = benchmark.row_of(benchmark.store_of_arm(project, "keep", 1), work)
    assert isinstance(again, Row)
    assert again == replace(row, seconds=again.seconds)  # now those of the manifest
    assert not project.store.keys("customized_checkpoint")


def some_rows() -> list[Row]:
    figures = {
        ("base", 0): (0.1, 0.3),
        ("gated-image", 0): (0.4, 0.6),
        ("gated-image", 1): (0.5, 0.7),
        ("gated-image-control", 0): (0.2, 0.4),
        ("gated-image-control", 1): (0.3, 0.3),
    }
    return [
        Row(seed, domain, method, top1, trainable_parameters=10, seconds=2.0, arm="keep")
        for (method, seed), pair in figures.items()
        for domain, top1 in zip(DOMAINS, pair, strict=True)
    ]


def test_gains_are_taken_seed_by_seed() -> None:
    lone = Row(2, "shapes", "gated-image", 1.0)
    summary = benchmark.summarise([*some_rows(), lone], DOMAINS).set_index("method")
    figures = {
        "seeds": 2,
        "mean": 55,
        "shapes": 45,
        "over_base": 35,
        "over_control": (20 + 30) / 2,
        "over_control_spread": 50**0.5,
    }
    assert summary.loc["gated-image", list(figures)].to_dict() == pytest.approx(figures)
    assert pd.isna(summary.loc["base", "over_base"])
    assert pd.isna(summary.loc["gated-image-control", "over_control"])


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    page, short = tmp_path / "results.md", tmp_path / "short.md"
    for path in (page, short):
        path.write_text(f"# Before\n\n{benchmark.BEGIN}\nold\n{benchmark.END}\n\nAfter.\n")
    skipped = {("keep", (2, "shapes", "full")): "the loss is nan"}
    benchmark.report(some_rows(), skipped, DOMAINS, page, short)
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("\n\nAfter.\n") and "old" not in text
    line = "| `gated-image` | 45.0 | 65.0 | 55.0 ± 7.1 | +35.0 ± 7.1 | +25.0 ± 7.1 | 10 | 2 | 2 |"
    assert line in text and "- `full`, keep, 1: the loss is nan" in text
    assert "| `gated-image` | 55.0 ± 7.1 | +25.0 ± 7.1 | 10 | 2.0 |" in short.read_text()
    assert (short.parent / "images" / "methods.png").stat().st_size > 1000
