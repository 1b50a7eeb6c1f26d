"""The table of the 20 data sets: ELEVATER's own figures, and names and templates that agree with
them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from react_pipeline.extensions.elevater import datasets
from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset, read_data
from react_pipeline.labelled import normal
from react_pipeline.store import InputError


def test_names_of_a_data_set_are_unambiguous() -> None:
    for entry in DATASETS.values():
        assert all(template.count("{}") == 1 for template in entry.templates)
        every = [normal(alias) for names in entry.aliases for alias in names]
        assert len(set(every)) == len(every)
        others = read_data("other_names.json").get(entry.name, {})
        assert set(others.values()) <= set(entry.class_names)


def test_the_20_data_sets_have_elevaters_counts_and_metrics() -> None:
    entries = DATASETS.values()
    counts = [(len(entry.class_names), len(entry.templates)) for entry in entries]
    assert np.sum(counts, axis=0).tolist() == [1_151, 132]
    # The totals of the paper's table.
    for split, total in {"train": 638_429, "test": 192_677}.items():
        assert sum(entry.sizes[split] for entry in entries) == total
    metrics = {entry.name: entry.metric for entry in entries if entry.metric != "accuracy"}
    means = ("caltech-101", "fgvc-aircraft-2013b-variants102")
    means += ("oxford-flower-102", "oxford-iiit-pets")
    assert metrics == {
        **dict.fromkeys(means, "mean-per-class"),
        **{"hateful-memes": "roc_auc", "voc-2007-classification": "11point_mAP"},
    }


def test_imagenet_has_1000_names_two_of_them_twice() -> None:
    names = IMAGENET.class_names
    assert (len(names), len(IMAGENET.templates), len(set(names))) == (1000, 80, 998)
    assert names.count("missile") == names.count("sunglasses") == 2


def test_what_differs_from_other_packages_is_elevaters() -> None:
    assert dataset("cifar-100").class_names[:3] == ("chimpanzee", "trout", "skunk")
    assert dataset("caltech-101").class_names[37:39] == ("centered face", "off-center face")
    assert dataset("stanford-cars").class_names[6] == "AM General Hummer SUV 2000"
    assert dataset("oxford-flower-102").class_names[92] == "air plant"
    assert dataset("fer-2013").aliases[6] == ("surprised", "shocked", "spooked")
    assert dataset("patch-camelyon").templates == ("this is a photo of {}",)
    assert dataset("kitti-distance").templates == ("{}",)
    assert dataset("resisc45_clip").templates[0] == "satellite imagery of {}."


def test_without_clip_benchmark_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "installed_file", lambda *_: None)
    datasets._clip_benchmark.cache_clear()
    with pytest.raises(InputError, match=r"\[elevater\]'"):
        _ = replace(dataset("country211")).class_names
