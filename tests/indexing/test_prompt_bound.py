"""Prompts that are names x templates find what they find one by one, by far fewer comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.clustered import Cloud, publish_embeddings, publish_parents
from react_pipeline.indexing import prompts
from react_pipeline.indexing.batch import exact_hits
from react_pipeline.indexing.choice import Searched, estimate
from react_pipeline.indexing.prompts import PromptBest, is_worth
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project.project import Project

ROWS, WIDTH, TEMPLATES = 6_000, 64, 16


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of similarities that were computed one by one; small corpora count as large ones."""
    monkeypatch.setattr(prompts, "_ROWS_PER_HIT", {"fp32": 1, "bf16": 1})
    counts: list[int] = []
    once = PromptBest._compare_left

    def counted(self: PromptBest, *args: object) -> int:
        counts.append(once(self, *args))  # type: ignore[arg-type]
        return counts[-1]

    monkeypatch.setattr(PromptBest, "_compare_left", counted)
    return counts


@pytest.fixture
def stored(make_project: Callable[..., Project], request: pytest.FixtureRequest) -> StoredVectors:
    project = make_project()
    publish_parents(project, 0)
    vectors = np.concatenate([images for images, _ in Cloud(ROWS, WIDTH).pairs()])
    if request.param == "random":
        vectors = np.random.default_rng(3).standard_normal(vectors.shape)
    if request.param == "duplicates":
        vectors[500:900], vectors[5_000:] = vectors[499], vectors[:1_000]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = ((part, part) for part in np.split(vectors, 4))
    return StoredVectors(publish_embeddings(project, parts, WIDTH), "image")


@pytest.mark.parametrize("stored", ["clustered", "random", "duplicates"], indirect=True)
@pytest.mark.parametrize("k", [1, 10, 400])
def test_exact_hits_are_the_same_with_and_without_the_bound(
    stored: StoredVectors, k: int, compared: list[int]
) -> None:
    asked = Cloud(ROWS, WIDTH).prompts(12, TEMPLATES)
    similarities, rows = exact_hits(stored, asked, k, templates=TEMPLATES)
    wanted, wanted_rows = exact_hits(stored, asked, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(similarities, wanted)
    assert compared
    if k == 1:
        assert sum(compared) < 0.5 * ROWS * len(asked)


@pytest.mark.parametrize("stored", ["clustered"], indirect=True)
def test_templates_that_add_nothing_in_common_only_cost_time(
    stored: StoredVectors, compared: list[int]
) -> None:
    asked = np.concatenate([images for images, _ in Cloud(160, WIDTH).pairs()])
    found = exact_hits(stored, asked, 10, templates=TEMPLATES), exact_hits(stored, asked, 10)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert compared


def test_it_is_used_where_hits_are_rare_and_names_have_many_prompts() -> None:
    assert is_worth(80_000, 80, 1_000_000, 10, "bf16", "cpu")
    assert is_worth(80_000, 80, 20_000, 10, "fp32", "cpu")
    assert not is_worth(80_000, 80, 20_000, 10, "bf16", "cpu")
    assert not is_worth(80_000, 80, 1_000_000, 10, "fp16", "cuda")
    assert not is_worth(80_000, 1, 1_000_000, 10, "fp32", "cpu")
    assert not is_worth(80_001, 80, 1_000_000, 10, "fp32", "cpu")


def test_the_estimate_counts_with_it() -> None:
    corpus = Searched(1_000_000, 512, 1)
    one, many = (
        estimate("auto", corpus, 80_000, 10, precision="fp32", cores=2, templates=t)
        for t in (1, 80)
    )
    assert many.exact_seconds < one.exact_seconds / 2
