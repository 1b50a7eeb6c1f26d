"""The proof on the demo: arms, controls and intervals are what their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import demo_photos, demo_proof
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


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady = [np.tile(np.arange(100) < 30, (3, 1))]
    shaky = [np.stack([np.arange(100) < right for right in (0, 30, 60)])]
    base = [np.zeros((1, 100), bool)]
    (_, low, high), (_, lower, higher) = (
        demo_proof.interval(method, base) for method in (steady, shaky)
    )
    assert lower < low and high < higher


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


def test_photographs_are_named_and_drawings_are_left_out(tmp_path: Path) -> None:
    for name in ("animals/apes/gorilla", "animals/cartoon/duck", "symbols/plus"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(path)
        path.with_suffix(".txt").write_text("A Mountain gorilla.\nde.utf8=Ein Berggorilla\n")
    ((path, name),) = demo_photos.photographs(tmp_path)
    assert (path.name, name) == ("gorilla.png", "Mountain gorilla")
    image = demo_photos.on_white(path)
    assert image.size == (8, 8) and image.getextrema() == ((255, 255),) * 3
    demo_photos.write_guard_set([(path, name)], tmp_path / "photographs")
    assert (tmp_path / "photographs" / "mountain gorilla" / "0000.png").is_file()
