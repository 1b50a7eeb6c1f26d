from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline.extensions.elevater.image_text import read_karpathy, recall
from react_pipeline.store import InputError


def entry(name: str, captions: list[str], split: str = "test", **more: Any) -> dict[str, Any]:
    return {
        "filename": name,
        "split": split,
        "sentences": [{"raw": caption} for caption in captions],
        **more,
    }


def write(path: Path, images: Any) -> Path:
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def brute_force(
    images: np.ndarray, texts: np.ndarray, image_of_caption: np.ndarray, k: int
) -> tuple[float, float]:
    """Sort everything, with the lower number first among equals, and look into the first k."""
    similarity = images @ texts.T
    by_image = [
        any(
            image_of_caption[text] == image
            for text in sorted(range(len(texts)), key=lambda t: (-row[t], t))[:k]
        )
        for image, row in enumerate(similarity)
    ]
    by_text = [
        image_of_caption[text] in sorted(range(len(images)), key=lambda i: (-column[i], i))[:k]
        for text, column in enumerate(similarity.T)
    ]
    return float(np.mean(by_image)), float(np.mean(by_text))


def test_recall_equals_brute_force_with_ties_by_number() -> None:
    random = np.random.default_rng(0)
    image_of_caption = random.permutation(
        np.concatenate([np.arange(23), random.integers(23, size=60)])
    )
    images = unit(random.standard_normal((23, 8)))
    texts = unit(images[image_of_caption] + random.standard_normal((83, 8)))
    images[1::2] = images[:-1:2]  # equal images: their similarities are exactly equal
    found = recall(images, texts, image_of_caption)
    for k in (1, 5, 10):
        assert (found["image to text"][k], found["text to image"][k]) == brute_force(
            images, texts, image_of_caption, k
        )
    few = recall(images[:1], texts[:3], np.zeros(3, np.int64))
    assert few["image to text"] == few["text to image"] == {1: 1.0, 5: 1.0, 10: 1.0}


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_karpathys_json_gives_first_five_captions_of_a_split(tmp_path: Path) -> None:
    images = [
        entry("a.jpg", [f"a {number}" for number in range(7)], filepath="val2014"),
        entry("b.jpg", ["b", " "], filepath="val2014"),
        entry("c.jpg", ["c"], split="train"),
    ]
    found = read_karpathy(write(tmp_path / "dataset_coco.json", images))
    assert found.images == ("val2014/a.jpg", "val2014/b.jpg")
    assert found.captions == ("a 0", "a 1", "a 2", "a 3", "a 4", "b")
    assert found.image_of_caption.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.dropped == {"more_captions_than_counted": 2, "empty_caption": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not Karpathy's JSON"),
        ('{"pictures": []}', "JSON: images"),
        ('{"images": [{"filename": "a", "split": "test"}]}', r"images\.0\.sentences"),
        (
            json.dumps({"images": [entry("a", ["x"], split="val")]}),
            "no captioned image of the split 'test'; it has val",
        ),
        (json.dumps({"images": [entry("../a", ["x"])]}), "leads out of the folder"),
        (json.dumps({"images": [entry("/a", ["x"])]}), "leads out of the folder"),
        ("[" * 100_000, "is not Karpathy's JSON"),
    ],
)
def test_a_json_that_cannot_be_used_is_named_with_its_fault(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_karpathy(path)
    assert "dataset.json" in str(error.value)
