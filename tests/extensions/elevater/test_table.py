"""The table of the 20 data sets: ELEVATER's own figures, and names and templates that agree with
them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset, read_data
from react_pipeline.labelled import normal

# name: classes, train, val, test, metric, templates; written down again from the benchmark, not
# from the table.
FACTS = {
    "caltech-101": (102, 3060, None, 6084, "mean-per-class", 34),
    "cifar-10": (10, 50000, None, 10000, "accuracy", 18),
    "cifar-100": (100, 50000, None, 10000, "accuracy", 18),
    "country211": (211, 31650, 10550, 21100, "accuracy", 5),
    "dtd": (47, 1880, 1880, 1880, "accuracy", 8),
    "eurosat_clip": (10, 5000, 5000, 5000, "accuracy", 3),
    "fer-2013": (7, 28709, 3589, 3589, "accuracy", 6),
    "fgvc-aircraft-2013b-variants102": (100, 3334, 3333, 3333, "mean-per-class", 2),
    "food-101": (101, 75750, None, 25250, "accuracy", 1),
    "gtsrb": (43, 26640, 12569, 12630, "accuracy", 3),
    "hateful-memes": (2, 8500, None, 500, "roc_auc", 1),
    "kitti-distance": (4, 6347, 423, 711, "accuracy", 1),
    "mnist": (10, 60000, None, 10000, "accuracy", 1),
    "oxford-flower-102": (102, 1020, 1020, 6149, "mean-per-class", 1),
    "oxford-iiit-pets": (37, 3680, None, 3669, "mean-per-class", 1),
    "patch-camelyon": (2, 262144, 32768, 32768, "accuracy", 1),
    "rendered-sst2": (2, 6920, 827, 1821, "accuracy", 1),
    "resisc45_clip": (45, 3150, 3150, 25200, "accuracy", 18),
    "stanford-cars": (196, 8144, None, 8041, "accuracy", 8),
    "voc-2007-classification": (20, 2501, 2510, 4952, "11point_mAP", 1),
}


@pytest.mark.parametrize("name", FACTS)
def test_every_data_set_has_elevaters_counts_and_metric(name: str) -> None:
    entry = dataset(name)
    sizes = tuple(entry.sizes.get(split) for split in ("train", "val", "test"))
    assert (len(entry.class_names), *sizes, entry.metric, len(entry.templates)) == FACTS[name]
    assert all(template.count("{}") == 1 for template in entry.templates)
    every = [normal(alias) for names in entry.aliases for alias in names]
    assert len(set(every)) == len(every)
    others = read_data("other_names.json").get(name, {})
    assert set(others.values()) <= set(entry.class_names)


def test_imagenet_has_1000_names_two_of_them_twice() -> None:
    assert list(DATASETS) == list(FACTS)
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


def test_without_clip_benchmark_the_error_says_what_to_install(tmp_path: Path) -> None:
    # A finder that knows no clip_benchmark, as on a machine without the extra.
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'clip_benchmark' else find(name, "
        "*rest)\n"
        "from react_pipeline.extensions.elevater.datasets import dataset\n"
        "assert len(dataset('stanford-cars').class_names) == 196\n"
        "dataset('country211').class_names"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "[elevater]'" in done.stderr
