"""The benchmark that measures domains for advice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import advise as benchmark
from benchmarks.domain_vectors import DomainVectors
from react_pipeline.clip import ClassHead
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.advise.forecast import MeasuredDomain, Measurements, calibration
from react_pipeline.extensions.demo import evaluation
from react_pipeline.project import Project
from react_pipeline.settings import load_domain
from react_pipeline.training import customize


@pytest.mark.parametrize("name", ["gda", "ncm", "linear-head", "gda-control"])
def test_heads_are_those_that_customize_publishes(retrieved_project: Project, name: str) -> None:
    domain = DomainVectors.of(retrieved_project, "shapes")
    mine, _ = domain.fit(name)
    published = customize(retrieved_project, "shapes", name)
    head = ClassHead.read(published.file("head.safetensors"))
    torch.testing.assert_close(mine.scores(domain.images), head.scores(domain.images))


def test_top1_is_that_of_evaluate(retrieved_project: Project) -> None:
    result = EvalResult.read(evaluate(retrieved_project, "shapes", "base"))
    assert DomainVectors.of(retrieved_project, "shapes").base == pytest.approx(result.top1)


@pytest.mark.slow
def test_domains_are_runs_of_unicode_with_enough_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "GROUPS", dict(evaluation.GROUPS))
    within = benchmark.write_domains(tmp_path, 20)
    assert within["animal-bird"] == "animals"
    assert within["activities"] == ""
    assert "lock" not in within
    assert {path.stem for path in tmp_path.glob("*.yaml")} == within.keys()
    birds = load_domain(tmp_path / "animal-bird.yaml")
    assert "owl" in birds.class_names
    assert "shark" not in birds.class_names


def test_gains_of_gated_blocks_are_read_from_the_proof() -> None:
    page = benchmark.HERE / "results.md"
    gains = [benchmark.of_proof(page, arm, "objects") for arm in benchmark.ARMS]
    assert 0 < gains[0]["gated-image"] < gains[1]["gated-image"] < 0.5
    assert not benchmark.of_proof(page, "as it is", "animals")


def test_the_table_has_a_line_a_method_and_kind_of_signs() -> None:
    names = ("similarity", "held_out_gain", "classes", "nearness")
    rows = tuple(
        MeasuredDomain(
            f"d{n}", "", "keep", {name: (n * 7 % 5) / 5 for name in names}, {"gda": n / 10}
        )
        for n in range(8)
    )
    both = [calibration(rows, "gda", pictures=pictures) for pictures in (False, True)]
    text = benchmark.table(Measurements(rows, {"gda": both, "full": [None, None]}))
    assert text.count("| `gda` | ") == 2
    assert "full" not in text
