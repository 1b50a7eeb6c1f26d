"""The report of what is there, whole and right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.elevater import write_elevater

from react_pipeline.extensions.elevater.check import check_root
from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.store.errors import InputError


def test_a_copy_with_all_official_numbers_is_complete(tmp_path: Path) -> None:
    write_elevater(tmp_path, {"train": 4250, "test": 250}, only=["hateful-memes"])
    (report,) = check_root(tmp_path, ["hateful-memes"])
    assert (report.state, report.problems) == ("complete", ())
    assert report.found == report.expected == {"train": 8500, "test": 500}


def test_fewer_images_or_a_missing_split_are_partial(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["dtd"])
    shutil.rmtree(tmp_path / "dtd" / "val")
    (report,) = check_root(tmp_path, ["dtd"])
    assert report.state == "partial"
    assert report.found == {"train": 47, "test": 47} and report.expected["val"] == 1880
    assert any("dtd, split val: no copy" in problem for problem in report.problems)
    assert any("split test: 47 images, officially 1,880" in text for text in report.problems)


def test_files_that_are_left_out_are_noted(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["cifar-10"])
    (tmp_path / "cifar-10" / "test" / "frog" / "notes.txt").write_text("x")
    (report,) = check_root(tmp_path, ["cifar-10"])
    assert any("1 files" in note for note in report.notes)


def test_root_that_is_not_there_and_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        check_root(tmp_path / "nowhere")
    with pytest.raises(InputError, match="did you mean mnist"):
        check_root(tmp_path, ["minst"])


@pytest.mark.parametrize(("share", "state"), [(0.8, "partial"), (0.02, "wrong")])
def test_a_short_image_is_noted_and_only_an_unusable_is_wrong(
    tmp_path: Path, share: float, state: str
) -> None:
    for label, name in enumerate(dataset("patch-camelyon").class_names):
        folder = tmp_path / "patch-camelyon" / "test" / name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(label).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "0.jpg")
    cut = folder / "0.jpg"
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    (report,) = check_root(tmp_path, ["patch-camelyon"])
    assert report.state == state
    assert any("0.jpg: truncated" in note for note in report.notes) == (state == "partial")
