"""Readers of boxes and label maps: every form, and bad input by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.dense import CLASSES, IDS, OWN, SIDE, instances, write_sets

from react_pipeline.extensions.dense.sets import read_dense_set
from react_pipeline.extensions.dense.settings import (
    SCENE_TEMPLATES,
    DenseConfig,
    dense_sets,
)
from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sets(tmp_path / "shapes")
    return tmp_path


BOXES, MASKS = DenseConfig.model_validate({"own": OWN}).sets("shapes")


def changed(root: Path, change: Callable[[dict[str, Any]], Any]) -> Any:
    given = instances()
    change(given)
    (root / "shapes" / "annotations.json").write_text(json.dumps(given))
    return read_dense_set(root, BOXES)


def test_boxes_keep_their_ids_with_gaps_and_their_crowds(root: Path) -> None:
    found = read_dense_set(root, BOXES)
    assert found.class_names == CLASSES
    assert [category["id"] for category in found.truth["categories"]] == list(IDS)
    assert [box["iscrowd"] for box in found.truth["annotations"]] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert found.image(2, 10_000).size == (SIDE, SIDE) and not found.skipped
    found = changed(root, lambda given: given["images"][1].update(width=SIDE + 1))
    with pytest.raises(InputError, match="1.png"):
        found.image(1, 10_000)


def test_a_label_map_gives_class_ids_and_ignores_its_border(root: Path) -> None:
    path = root / "shapes" / "labels" / "1.png"
    palette = Image.fromarray(np.asarray(Image.open(path)), "P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(path)
    found = read_dense_set(root, MASKS)
    ids = found.label_map(1, (SIDE, SIDE))
    assert found.class_names == CLASSES  # `background` is ignored too
    assert set(np.unique(ids)) == {1, 2, 255}
    assert (ids[:2] == 255).all() and ids[10, 10] == 1


def test_the_digest_sees_pixels_labels_and_boxes(root: Path) -> None:
    digests = {read_dense_set(root, one).digest() for one in (BOXES, MASKS)}
    digests.add(changed(root, lambda given: given["annotations"].pop()).digest())
    for folder in ("labels", "images"):
        path = root / "shapes" / folder / "3.png"
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
        digests.add(read_dense_set(root, MASKS).digest())
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (lambda given: given.pop("categories"), "categories"),
        (lambda given: given["annotations"][3].update(category_id=5), "annotations[3].category_id"),
        (lambda given: given["categories"].append({"id": 4, "name": "Circle"}), "twice"),
        (lambda given: given["images"].append(given["images"][0]), "twice"),
        (lambda given: given["images"][0].update(file_name="9.png"), "9.png"),
        (lambda given: given["images"][0].pop("width"), "width"),
        (lambda given: given["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "COCO"),
    ],
)
def test_wrong_boxes_are_one_error_with_file_and_field(root: Path, change: Any, token: str) -> None:
    with pytest.raises(InputError, match=re.escape(token)) as caught:
        changed(root, change)
    assert "annotations.json" in str(caught.value)


def test_boxes_that_can_be_no_objects_are_counted_and_left_out(root: Path) -> None:
    def change(given: dict[str, Any]) -> None:
        boxes = [5, 5, 0, 9], [-20, 5, 9, 9], [-4, 60, 10, 10]
        for annotation, box in zip(given["annotations"], boxes, strict=False):
            annotation["bbox"] = box

    found = changed(root, change)
    assert found.skipped == {"no area in the image": 2}
    assert len(found.truth["annotations"]) == 6
    assert found.truth["annotations"][0]["bbox"] == [0, 60, 6, 4]


@pytest.mark.parametrize(
    ("name", "content", "token"),
    [
        ("labels/2.png", np.zeros((SIDE, SIDE + 1)), f"{SIDE + 1}, {SIDE}"),
        ("labels/2.png", np.zeros((SIDE, SIDE, 3)), "RGB"),
        ("labels/2.png", np.full((SIDE, SIDE), 77), "77"),
        ("labels/2.png", b"no picture", "2.png"),
        ("names.txt", b"background\ncircle\nCircle\n", "twice"),
        ("names.txt", "\n".join(map(str, range(256))).encode(), "256 classes do not fit"),
        ("images/2.png", None, "2"),
    ],
)
def test_wrong_label_maps_are_one_error(root: Path, name: str, content: Any, token: str) -> None:
    path = root / "shapes" / name
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        Image.fromarray(content.astype(np.uint8)).save(path)
    with pytest.raises(InputError, match=token):
        read_dense_set(root, MASKS).label_map(2, (SIDE, SIDE))


@pytest.mark.parametrize("copy", ["labels/again/2.png", "images/2.jpg"])
def test_two_files_of_one_name_are_refused_rather_than_joined(root: Path, copy: str) -> None:
    path = root / "shapes" / copy
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(InputError, match=re.escape(path.name)):
        read_dense_set(root, MASKS)


def test_what_is_missing_is_unavailable(root: Path) -> None:
    for entry, gone in ((MASKS, "labels"), (BOXES, "images"), (BOXES, "annotations.json")):
        (root / "shapes" / gone).rename(root / gone)
        with pytest.raises(Unavailable, match=gone.split(".")[0]):
            read_dense_set(root, entry)
    (root / "shapes" / "labels").mkdir()
    with pytest.raises(Unavailable, match="no label map"):
        read_dense_set(root, MASKS)


def test_values_of_coco_stuff_are_its_171_classes(tmp_path: Path) -> None:
    entry = dense_sets()["coco-stuff-171"]
    # Category ids less one: person, hair drier and toothbrush, banner (id 92), wood (id 182), an id
    # that is no class.
    values = np.array([[0, 88, 89, 91, 181, 11, 255]], np.uint8)
    for folder, kind in ((entry.truth, "png"), (entry.images, "jpg")):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / folder / f"1.{kind}")
    ids = read_dense_set(tmp_path, entry).label_map(0, (7, 1)).tolist()
    assert ids == [[0, 78, 79, 80, 170, 255, 255]]
    names = [entry.class_names[number] for number in ids[0][:5]]
    assert names == ["person", "hair drier", "toothbrush", "banner", "wood"]


def test_prompts_of_the_table_depend_on_the_task() -> None:
    boxes, maps = DenseConfig(datasets=("coco-80", "coco-stuff-171")).sets("shapes")
    assert boxes.templates[0] == "{}." and len(boxes.templates) == 81
    assert maps.templates[-5:] == SCENE_TEMPLATES and len(maps.templates) == 85
    assert boxes.templates[1:] == maps.templates[:80]


def test_the_open_vocabulary_split_drops_ungrouped_classes(root: Path) -> None:
    entry = dense_sets()["coco-ovd-65"]
    assert (len(entry.class_names), *map(len, entry.groups.values())) == (65, 48, 17)
    given = instances(2)
    names = dense_sets()["coco-80"].class_names
    given["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    dropped = names.index("teddy bear")
    for box in given["annotations"]:
        box["category_id"] = dropped if box["image_id"] == 101 else 0
    (root / "shapes" / "images").rename(root / entry.images)
    (root / "annotations").mkdir()
    (root / entry.truth).write_text(json.dumps(given))
    # The other image has no box of these classes.
    assert [one.name for one in read_dense_set(root, entry).pictures] == [f"{entry.images}/0.png"]
    given["categories"].pop()
    (root / entry.truth).write_text(json.dumps(given))
    with pytest.raises(InputError, match="toothbrush"):
        read_dense_set(root, entry)
