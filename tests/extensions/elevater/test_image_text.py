from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline.extensions.elevater.image_text import read_karpathy, recall
from react_pipeline.store import InputError


def entry(name: str, captions: list[str], split: str = "test", **more: Any) -> dict[str, Any]:
    sentences = [{"raw": caption} for caption in captions]
    return {"filename": name, "split": split, "sentences": sentences, **more}


def karpathy(*images: dict[str, Any]) -> str:
    return json.dumps({"images": images, "dataset": "coco"})


def test_recall_both_ways_with_ties_by_number() -> None:
    # Captions 0, 5 and 11 are equally near to each of 12 images, so the lower number ranks first;
    # image 5 has a second one.
    images = np.eye(12, dtype=np.float32)
    texts = np.concatenate([images, images[5:6]])
    texts[[0, 5, 11]] = 12**-0.5
    found = recall(images, texts, np.array([*range(12), 5]))
    assert found["image to text"] == pytest.approx({1: 11 / 12, 5: 1, 10: 1})
    assert found["text to image"] == pytest.approx({1: 11 / 13, 5: 11 / 13, 10: 12 / 13})
    few = recall(images[:1], texts[:3], np.zeros(3, np.int64))
    assert few["image to text"] == few["text to image"] == {1: 1.0, 5: 1.0, 10: 1.0}


def test_karpathys_json_gives_first_five_captions_of_a_split(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    first = entry("a.jpg", list("0123456"), filepath="val2014")
    path.write_text(karpathy(first, entry("b.jpg", ["b", " "]), entry("c.jpg", ["c"], "train")))
    found = read_karpathy(path)
    assert found.images == ("val2014/a.jpg", "b.jpg")
    assert found.captions == tuple("01234b")
    assert found.image_of_caption.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.dropped == {"more_captions_than_counted": 2, "empty_caption": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not Karpathy's JSON"),
        ('{"images": [{"filename": "a", "split": "test"}]}', r"images\.0\.sentences"),
        (karpathy(entry("a", ["x"], "val")), "no captioned image of the split 'test'; it has val"),
    ],
)
def test_a_json_that_cannot_be_used_is_named_with_its_fault(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"dataset\.json.*{message}"):
        read_karpathy(path)
