"""FAULTS 11, 31 for the benchmark's data: missing is `unavailable`, wrong is refused with
file and fault.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.elevater import write_elevater

from react_pipeline.extensions.elevater.datasets import DATASETS
from react_pipeline.extensions.elevater.readers import check_splits, read_dataset
from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 2, only=["cifar-10", "voc-2007-classification"])


def refusal(root: Path, name: str = "cifar-10") -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(root, name, "test")
    assert not isinstance(caught.value, Unavailable), "wrong data must not pass for missing data"
    return str(caught.value)


# 31: labels and classes


def test_class_names_that_are_no_utf8_are_refused(root: Path) -> None:
    names = root / "voc-2007-classification" / "classnames.txt"
    names.write_bytes("Flugzeug\nKäfer\n".encode("latin-1"))
    assert "classnames.txt: cannot be read as UTF-8" in refusal(root, "voc-2007-classification")


def test_missing_data_is_unavailable_and_never_empty(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(Unavailable, match="Get it from"):
            read_dataset(tmp_path, name, "test")


# 11 (12 and 13 are in test_bad_images_and_captions.py and tests/corpus/test_images.py)


def test_the_check_meets_files_that_are_no_images(root: Path) -> None:
    (root / "cifar-10" / "test" / "airplane" / "0.png").write_bytes(b"<html>404</html>")
    reports = {row[:2]: row[-2:] for row in check_splits(root)}
    names = ("cifar-10", "voc-2007-classification", "mnist")
    assert [reports[name, "test"][0] for name in names] == ["wrong", "partial", "unavailable"]
    problem = reports["cifar-10", "test"][1]
    assert "cifar-10/test/airplane/0.png: no usable image" in problem and "not_an_image" in problem
