"""Names on disk are joined with the table's by name, whatever their order and spelling."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset
from react_pipeline.extensions.elevater.names import join_names
from react_pipeline.store.errors import InputError


@pytest.mark.parametrize("name", DATASETS)
def test_shuffled_names_in_another_spelling_find_their_classes(name: str, tmp_path: Path) -> None:
    entry = dataset(name)
    order = list(range(entry.num_classes))
    random.Random(1).shuffle(order)  # noqa: S311
    respelt = [entry.class_names[number].upper().replace(" ", "_") for number in order]
    ids = join_names(entry, respelt, tmp_path / "labels.txt", tmp_path)
    assert ids.tolist() == order


def test_names_of_the_original_data_sets_are_known(tmp_path: Path) -> None:
    entry = dataset("eurosat_clip")
    names = [
        "SeaLake",
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
    ]
    ids = join_names(entry, [*names, "PermanentCrop", "Residential", "River"], tmp_path, tmp_path)
    assert ids.tolist() == [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_an_alias_means_its_class(tmp_path: Path) -> None:
    names = ["Spooked", "angry", "disgusted", "fearful", "smiling", "bored", "depressed"]
    ids = join_names(dataset("fer-2013"), names, tmp_path, tmp_path)
    assert ids.tolist() == [6, 0, 1, 2, 3, 4, 5]


def test_two_names_of_one_class_are_refused(tmp_path: Path) -> None:
    names = ["angry", "disgusted", "fearful", "happy", "smiling", "sad", "surprised"]
    with pytest.raises(InputError, match=r"'smiling'.*already[\s\S]*left over: 'neutral'"):
        join_names(dataset("fer-2013"), names, tmp_path, tmp_path)


def test_imagenet_is_joined_though_two_names_occur_twice(tmp_path: Path) -> None:
    ids = join_names(IMAGENET, IMAGENET.class_names, tmp_path, tmp_path)
    assert ids.tolist() == list(range(1000))


def test_imagenet_is_joined_by_wordnet_ids(tmp_path: Path) -> None:
    import timm.data

    synsets = timm.data.ImageNetInfo("imagenet1k").label_names()
    ids = join_names(IMAGENET, synsets[::-1], tmp_path, tmp_path)
    assert ids.tolist() == list(range(1000))[::-1]
    assert IMAGENET.class_names[synsets.index("n01440764")] == "tench"


def test_a_users_own_names_are_read_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "class_names.json").write_text(
        json.dumps({"rendered-sst2": {"bad": "negative", "good": "positive"}})
    )
    ids = join_names(dataset("rendered-sst2"), ["good", "bad"], tmp_path, tmp_path)
    assert ids.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not"),
        ("[]", "is not"),
        ('{"rendered-sst2": {"bad": 0}}', "is not"),
        ('{"rendered-sst2": "any-order"}', "is not"),
        ('{"rendered-sst2": {"bad": "awful"}}', "no class 'awful'"),
    ],
)
def test_a_users_own_names_that_are_wrong_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "class_names.json").write_text(text)
    with pytest.raises(InputError, match=message):
        join_names(dataset("rendered-sst2"), ["good", "bad"], tmp_path, tmp_path)
