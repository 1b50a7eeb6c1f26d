"""FAULTS 11, 31 for the benchmark's data: what is wrong is refused with file and fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.elevater import write_elevater

from react_pipeline.extensions.elevater.readers import check_splits, read_dataset
from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 2, only=["cifar-10", "voc-2007-classification"])


def test_class_names_that_are_no_utf8_are_refused(root: Path) -> None:
    names = root / "voc-2007-classification" / "classnames.txt"
    names.write_bytes("Flugzeug\nKäfer\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classnames\.txt: cannot be read as UTF-8") as caught:
        read_dataset(root, "voc-2007-classification", "test")
    assert not isinstance(caught.value, Unavailable), "wrong data must not pass for missing data"


def test_the_check_meets_files_that_are_no_images(root: Path) -> None:
    (root / "cifar-10" / "test" / "airplane" / "0.png").write_bytes(b"<html>404</html>")
    reports = {row[:2]: row[-2:] for row in check_splits(root)}
    names = ("cifar-10", "voc-2007-classification", "mnist")
    assert [reports[name, "test"][0] for name in names] == ["wrong", "partial", "unavailable"]
    problem = reports["cifar-10", "test"][1]
    assert "cifar-10/test/airplane/0.png: no usable image" in problem and "not_an_image" in problem
