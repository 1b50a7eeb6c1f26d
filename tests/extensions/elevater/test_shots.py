from __future__ import annotations

import numpy as np
import pytest

from react_pipeline.extensions.elevater.shots import hold_out, sample_shots, split_training
from react_pipeline.store import InputError


def test_samples_are_those_of_the_toolkit_and_never_change() -> None:
    """Drawn by `sample_few_shot_subset` of vision-datasets 0.2.17."""
    labels = np.arange(40) % 4
    assert sample_shots(labels, 2, seed=1, n_classes=4).tolist() == [23, 2, 11, 1, 37, 32, 34, 20]
    chances = np.linspace(0.05, 0.6, 6)
    several = (np.random.default_rng(0).random((60, 6)) < chances).astype(np.uint8)
    several[::10] = 0
    drawn = "12 33 29 36 44 47 5 41 9 18 37 25"
    assert " ".join(map(str, sample_shots(several, 2, 0, n_classes=6))) == drawn
    # A class with too few images gives all of them.
    assert sorted(sample_shots(np.array([0, 1, 2, 3]), 20, seed=0, n_classes=5)) == [0, 1, 2, 3]


def test_a_fifth_of_each_class_is_held_out_from_the_front() -> None:
    labels = np.array([1] * 5 + [0] * 6 + [1] * 5)
    trained, held = hold_out(labels)
    assert held.tolist() == [0, 1, 5, 6]
    assert trained.tolist() == [2, 3, 4, *range(7, 16)]


def test_the_multilabel_cover_takes_the_lowest_class_first() -> None:
    labels = np.array([[0, 1], [1, 1], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0]])
    # Class 0 (5 images) wants 1: image 1, which serves class 1 (4 images, wants 1) too.
    assert hold_out(labels)[1].tolist() == [1]
    labels[1] = [1, 0]
    assert hold_out(labels)[1].tolist() == [1, 0]


def test_the_final_training_uses_the_held_out_part_too() -> None:
    labels = np.random.default_rng(0).integers(4, size=200)
    full = split_training(labels, n_classes=4)
    whole = [*full.search.tolist(), *full.held_out.tolist()]
    assert full.final.tolist() == sorted(whole) == list(range(200))
    few = split_training(labels, n_classes=4, shots=5, seed=2)
    assert few.final.tolist() == sample_shots(labels, 5, 2, n_classes=4).tolist()
    assert np.bincount(labels[few.held_out]).tolist() == [1] * 4
    assert np.bincount(labels[few.search]).tolist() == [4] * 4


def test_patch_camelyon_searches_a_sample_and_trains_on_all() -> None:
    labels = np.arange(24_000) % 2
    split = split_training(labels, n_classes=2, dataset="patch-camelyon")
    assert np.bincount(labels[split.search]).tolist() == [8_000] * 2
    assert np.bincount(labels[split.held_out]).tolist() == [2_000] * 2
    assert len(split.final) == 24_000
    assert len(split_training(labels, n_classes=2).search) == 19_200


@pytest.mark.parametrize("labels", [[], [0, 1], [0, 0, 1]])
def test_a_split_with_too_few_images_to_train_on_is_refused(labels: list[int]) -> None:
    with pytest.raises(InputError, match="too few are left"):
        split_training(np.asarray(labels, dtype=np.int64), n_classes=2)
