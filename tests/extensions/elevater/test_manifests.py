"""A local ELEVATER copy: registry, IRIS and COCO indexes, archives in place, labels joined
by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.elevater import edit_registry, folder_of, png, write_elevater

from react_pipeline.extensions.elevater.datasets import DATASETS, dataset
from react_pipeline.extensions.elevater.index_files import REGISTRY
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled.kind import Unavailable
from react_pipeline.store.errors import InputError


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(tmp_path_factory.mktemp("elevater"), 2, shuffle_names=7)


def class_in_name(location: str) -> int:
    """The stand-ins keep the table's class id in the name of the folder."""
    return int(location.split("/")[-2])


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_read_in_its_published_format(copy: Path, name: str) -> None:
    for split in dataset(name).sizes:
        images = read_dataset(copy, name, split)
        assert len(images) == 2 * len(dataset(name).class_names)
        assert images.class_names == dataset(name).class_names
        expected = [class_in_name(location) for location in images.locations]
        if dataset(name).multilabel:
            assert images.labels.dtype == np.uint8
            assert all(images.labels[row, class_id] for row, class_id in enumerate(expected))
        else:
            assert images.labels.dtype == np.int64
            assert images.labels.tolist() == expected


def test_bytes_are_those_of_the_archives_member(copy: Path) -> None:
    images = read_dataset(copy, "gtsrb", "test")
    assert images.locations[5].startswith("final_test.zip@test images/")
    member = images.locations[5].partition("@")[2]
    assert images.read(5) == png(int(images.labels[5]), f"gtsrb{member}")


def test_order_on_disk_is_kept_for_submissions(copy: Path) -> None:
    images = read_dataset(copy, "mnist", "test")
    names = (folder_of(copy, "mnist") / "labels.txt").read_text().split()
    assert [images.class_names[class_id] for class_id in images.order] == names
    assert images.order != tuple(range(10))


def test_order_of_a_coco_index_is_that_of_its_category_ids(copy: Path) -> None:
    given = json.loads((folder_of(copy, "resisc45_clip") / "test.json").read_text())
    by_id = [
        category["name"]
        for category in sorted(given["categories"], key=lambda category: category["id"])
    ]
    images = read_dataset(copy, "resisc45_clip", "test")
    assert [images.class_names[class_id] for class_id in images.order] == by_id


def test_images_of_a_coco_index_are_in_the_order_of_their_ids(copy: Path) -> None:
    given = json.loads((folder_of(copy, "hateful-memes") / "test_meta.json").read_text())
    assert given["images"][0]["id"] > given["images"][-1]["id"]
    by_id = [image["file_name"] for image in sorted(given["images"], key=lambda image: image["id"])]
    images = read_dataset(copy, "hateful-memes", "test")
    assert [location.partition("@")[2] for location in images.locations] == by_id


def test_an_image_of_voc_has_all_its_classes(copy: Path) -> None:
    images = read_dataset(copy, "voc-2007-classification", "test")
    assert images.labels.shape == (40, 20)
    assert images.labels.sum(axis=1).tolist() == [1] * 20 + [2] * 20
    row = 25
    expected = {
        class_in_name(images.locations[row]),
        (class_in_name(images.locations[row]) + 1) % 20,
    }
    assert set(np.flatnonzero(images.labels[row])) == expected


def test_an_image_of_voc_may_have_no_class(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["voc-2007-classification"])
    folder = folder_of(tmp_path, "voc-2007-classification")
    (folder / "nothing.png").write_bytes(png(0, "nothing"))
    (folder / "test_ic.txt").write_text("nothing.png\n" + (folder / "test_ic.txt").read_text())
    edit_registry(
        tmp_path, "voc-2007-classification", test={"index_path": "test_ic.txt", "num_images": 21}
    )
    labels = read_dataset(tmp_path, "voc-2007-classification", "test").labels
    assert labels.sum(axis=1).tolist() == [0] + [1] * 20


def test_plain_files_beside_the_index_are_read_too(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["mnist"])
    folder = folder_of(tmp_path, "mnist")
    (folder / "some images").mkdir()
    for digit in range(10):
        (folder / "some images" / f"{digit}.png").write_bytes(png(digit, str(digit)))
    (folder / "test.txt").write_text(
        "".join(f"\nsome images/{digit}.png {digit}\n" for digit in range(10))
    )
    images = read_dataset(tmp_path, "mnist", "test")
    assert images.labels.tolist() == list(range(10))
    assert images.read(3) == png(3, "3")


def test_without_a_registry_published_folder_names_are_known(tmp_path: Path) -> None:
    write_elevater(tmp_path / "whole", only=["gtsrb"], registry=False)
    assert len(read_dataset(tmp_path / "whole", "gtsrb", "test")) == 43
    # The folder `classification` may be the root itself.
    assert len(read_dataset(tmp_path / "whole" / "classification", "gtsrb", "test")) == 43


def test_the_newest_version_of_the_registry_counts(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["mnist"])
    path = tmp_path / "vision_datasets.json"
    (entry,) = json.loads(path.read_text())
    path.write_text(
        json.dumps([{**entry, "version": 2}, {**entry, "root_folder": "classification/old"}])
    )
    assert len(read_dataset(tmp_path, "mnist", "test")) == 10


def test_labels_without_names_follow_elevaters_order_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_elevater(tmp_path, only=["stanford-cars"])
    (folder_of(tmp_path, "stanford-cars") / "labels.txt").unlink()
    images = read_dataset(tmp_path, "stanford-cars", "test")
    assert images.labels.tolist() == [class_in_name(location) for location in images.locations]
    assert any("ELEVATER's own list" in note for note in images.notes)
    assert "ELEVATER's own list" in caplog.text


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda folder: shutil.rmtree(folder), "mnist_20211008"),
        (lambda folder: (folder / "test.txt").unlink(), "test.txt"),
        (lambda folder: (folder / "val.zip").unlink(), "val.zip"),
    ],
)
def test_missing_data_are_unavailable_with_where_to_get_them(
    tmp_path: Path, change: object, missing: str
) -> None:
    write_elevater(tmp_path, only=["mnist"])
    change(folder_of(tmp_path, "mnist"))  # type: ignore[operator]
    with pytest.raises(Unavailable, match=missing) as caught:
        read_dataset(tmp_path, "mnist", "test")
    assert dataset("mnist").homepage in caught.value.reason


def test_a_split_that_the_benchmark_lacks_is_unavailable(copy: Path) -> None:
    with pytest.raises(Unavailable, match="no split 'val'"):
        read_dataset(copy, "mnist", "val")


def test_data_sets_left_out_are_unavailable(tmp_path: Path) -> None:
    write_elevater(tmp_path, without=["cifar-10"], only=["cifar-10", "mnist"])
    with pytest.raises(Unavailable, match="no copy of it"):
        read_dataset(tmp_path, "cifar-10", "test")


def test_a_registry_that_is_no_list_is_refused(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["mnist"])
    (tmp_path / REGISTRY).write_text("{}")
    with pytest.raises(InputError, match="is not a list"):
        read_dataset(tmp_path, "mnist", "test")


def test_a_registry_field_against_the_benchmark_is_refused(tmp_path: Path) -> None:
    write_elevater(tmp_path, only=["mnist"])
    edit_registry(tmp_path, "mnist", type="classification_multilabel")
    with pytest.raises(InputError, match="mnist.type"):
        read_dataset(tmp_path, "mnist", "test")
