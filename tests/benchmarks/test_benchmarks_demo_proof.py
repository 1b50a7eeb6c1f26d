"""The proof on the demo: arms, controls and intervals are what their names say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import demo_proof
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.project.project import Project


def test_an_interval_holds_the_gain_and_none_against_itself() -> None:
    random = np.random.default_rng(0)
    better = [random.random((3, 200)) < 0.5, random.random((3, 100)) < 0.4]
    base = [random.random((1, 200)) < 0.1, random.random((1, 100)) < 0.1]
    gain, low, high = demo_proof.interval(better, base)
    assert gain == pytest.approx(
        100 * np.mean([one.mean() - two.mean() for one, two in zip(better, base, strict=True)])
    )
    assert 0 < low < gain < high
    assert demo_proof.interval(base, base) == (0, 0, 0)


def test_shuffled_captions_are_those_of_other_classes(
    retrieved_project: Project,
) -> None:
    project = retrieved_project
    other = demo_proof.beside(project, "proof/shuffled", 0, same_subject="keep")
    assert not other.store.keys("retrieved_set")
    retrieved = project.store.current("retrieved_set", "shapes")
    before = pd.read_parquet(retrieved.file("pairs.parquet")).set_index("row")
    shuffled = demo_proof.shuffle_captions(other, "shapes", retrieved, seed=0)
    pairs = list(CollectedPairs(shuffled))
    assert {pair.row for pair in pairs} == set(before.index)
    assert sorted(pair.caption for pair in pairs) == sorted(before["caption"])
    of_class = before.groupby("class")["caption"].agg(set)
    for pair in pairs:
        assert any(
            pair.caption in captions for label, captions in of_class.items() if label != pair.label
        )
    assert any(pair.caption not in of_class[pair.label] for pair in pairs)
    assert [pair.image for pair in pairs] == [pair.image for pair in CollectedPairs(retrieved)]
