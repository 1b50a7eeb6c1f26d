"""Domains in memory: their heads and figures are those that are published."""

from __future__ import annotations

import pytest
import torch

from benchmarks.domain_vectors import DomainVectors
from react_pipeline.clip import ClassHead
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.project import Project
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
