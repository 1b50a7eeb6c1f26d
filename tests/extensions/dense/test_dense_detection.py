"""Boxes from every source, what a detector makes of them, and figures against calculations by
hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.dense import OWN, write_sets
from torch import Tensor
from torch.nn import functional

from react_pipeline.clip import Clip, load
from react_pipeline.extensions.dense.detection import Detector, boxes_of_file, true_boxes
from react_pipeline.extensions.dense.measures import box_figures, map_figures, proposal_figures
from react_pipeline.extensions.dense.sets import BoxImages, read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.store import CorruptArtifact, InputError

PLACES = torch.tensor([[0.0, 0.0, 20.0, 20.0], [1.0, 1.0, 21.0, 21.0], [40.0, 40.0, 60.0, 60.0]])
BLACK = Image.new("RGB", (64, 64))


@pytest.fixture
def boxes(tmp_path: Path) -> BoxImages:
    write_sets(tmp_path / "shapes")
    return read_dense_set(tmp_path, DenseConfig.model_validate({"own": OWN}).sets("shapes")[0])


@pytest.fixture(scope="module")
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


@pytest.fixture
def detector(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], Detector]:
    """Make one whose regions have given vectors, over three classes whose vectors are the axes."""

    def make(vectors: Tensor) -> Detector:
        made = Detector(clip, ["a", "b", "c"], ["{}"])
        made.head.copy_(torch.eye(32)[:, :3])
        monkeypatch.setattr(made, "region_vectors", lambda *_: vectors)
        return made

    return make


def test_boxes_of_a_results_file_pass_the_filter(boxes: BoxImages) -> None:
    root = Path(str(boxes.pictures[0].path)).parents[2]
    config = DenseConfig.model_validate({"root": root})
    rows = [
        {"image_id": image, "category_id": 3, "bbox": box, "score": score}
        for image, box, score in (
            (101, [50, 50, 40, 40], 0.75),
            (101, [70, 70, 4, 4], 0.9),
            (5, [0, 0, 4, 4], 0.9),
            (101, [50, 50, 13.5, 14], 0.6),
            (101, [2, 2, 4, 4], 0.5),
        )
    ]
    path = root / "boxes" / "boxes.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    crowded, none = true_boxes(boxes)(0)
    assert none is None and crowded.tolist() == [[4.0, 6.0, 28.0, 36.0]]
    source = boxes_of_file(boxes, config)
    places, objectness = source(1)
    # Cut to the image. Left out: one beside it, one of another image, one that overlaps by more
    # than 0.9, one that is no likely object.
    assert places.tolist() == [[50.0, 50.0, 64.0, 64.0]]
    assert objectness is not None and objectness.tolist() == [0.75]
    assert source(2)[0].shape == (0, 4)
    for wrong in ([], [{**rows[0], "score": 3.5}], [{"image_id": 101}]):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"dense\.boxes: .*boxes\.json"):
            boxes_of_file(boxes, config)


def test_overlapping_boxes_of_one_class_are_suppressed(
    detector: Callable[[Tensor], Detector],
) -> None:
    vectors = torch.eye(32)[:3]
    vectors[0, 1], vectors[1, 0] = 0.99, 0.98
    boxes, scores, classes = detector(functional.normalize(vectors))(BLACK, PLACES, None)
    found = sorted(zip(classes.tolist(), boxes[:, 0].tolist(), strict=True))
    assert found == [(0, 0.0), (1, 1.0), (2, 40.0)]
    assert (scores.diff() <= 0).all() and scores[0] == pytest.approx(1.0, abs=1e-4)


def test_objectness_is_fused_by_the_root_of_the_product(
    detector: Callable[[Tensor], Detector],
) -> None:
    _, scores, classes = detector(torch.eye(32)[:3])(BLACK, PLACES, torch.tensor([0.25, 1.0, 0.0]))
    found = dict(zip(classes.tolist(), scores.tolist(), strict=True))
    assert found == pytest.approx({0: 0.5, 1: 1.0}, abs=1e-4)
    with pytest.raises(CorruptArtifact, match="finite"):
        detector(torch.full((3, 32), torch.nan))(BLACK, PLACES, None)


def test_regions_of_an_image_are_encoded_and_may_be_none(clip: Clip) -> None:
    made = Detector(clip, ["a", "b"], ["{}"])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    vectors = made.region_vectors(image, PLACES)
    assert vectors.shape == (3, 32)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    assert all(len(part) == 0 for part in made(image, torch.zeros(0, 4), None))
    # The whole of an image as large as the model's input is the image.
    small = image.crop((0, 0, 32, 32))
    whole = made.region_vectors(small, torch.tensor([[0.0, 0.0, 32.0, 32.0]]))
    wanted = clip.encode_images(clip.preprocess(small)[None])
    torch.testing.assert_close(whole, wanted, atol=1e-4, rtol=1e-3)


IDS = (1, 4, 9, 30)
BOXES = [
    {
        **{"id": 3 * image + place + 1, "image_id": image, "category_id": IDS[place]},
        **{"bbox": [30 * place, 10, 20, 20], "area": 400, "iscrowd": int(image == place == 2)},
    }
    for image in range(4)
    for place in range(3)
]
"""A box of classes a, b and c in each of four images, one of c a crowd; d has none."""
TRUTH = {
    "images": [{"id": image, "width": 100, "height": 100} for image in range(4)],
    "annotations": BOXES,
    "categories": [{"id": number, "name": name} for number, name in zip(IDS, "abcd", strict=True)],
}
FOUND = [{**box, "score": 0.5} for box in BOXES if not box["iscrowd"]]


def test_average_precision_by_hand_of_all_classes_and_of_groups() -> None:
    # a is right, c is not found; b is 4 pixels beside it: an IoU of 2/3 counts up to 0.65.
    beside = [{**box, "bbox": [34, 10, 20, 20]} for box in FOUND if box["category_id"] == IDS[1]]
    found = [box for box in FOUND if box["category_id"] == IDS[0]] + beside
    groups = {"base": ["a", "d"], "novel": ["b", "c"], "none": ["d"]}
    figures, classes = box_figures(TRUTH, found, groups)
    assert classes == pytest.approx({"a": 1, "b": 1, "c": 0})
    # Of a group those classes count that have boxes; one without any has no figure.
    assert figures == pytest.approx(
        {
            **{"ap": 1.4 / 3, "ap50": 2 / 3},
            **{"ap_base": 1, "ap50_base": 1, "ap_novel": 0.2, "ap50_novel": 0.5},
        }
    )


def test_all_right_detections_are_1_and_none_are_0() -> None:
    assert box_figures(TRUTH, FOUND, {})[0] == pytest.approx({"ap": 1, "ap50": 1})
    assert box_figures(TRUTH, [], {})[0] == {"ap": 0, "ap50": 0}
    assert box_figures({**TRUTH, "annotations": []}, FOUND[:1], {})[0] == {}


def test_recall_of_proposals_counts_boxes_of_any_class() -> None:
    proposals = [{**box, "category_id": IDS[0]} for box in FOUND[::2]]
    recalls = {"proposal_recall_100": 6 / 11, "proposal_recall_1000": 6 / 11}
    assert proposal_figures(TRUTH, proposals) == pytest.approx(recalls)


def test_iou_by_hand_with_ignored_pixels_and_absent_classes() -> None:
    truth = np.array([[0, 0, 1, 1], [255, 255, 1, 0]])
    found = np.array([[0, 1, 1, 1], [3, 0, 0, 0]])
    # Over all images together, not the mean over images.
    figures, ious = map_figures(zip(truth, found, strict=True), "abcd")
    # 0: two of the union {0,0,0 true; one more found} = 2 / 4; 1: 2 / 4; 2 is nowhere, 3 is found
    # on an ignored pixel.
    assert ious == {"a": 0.5, "b": 0.5}
    assert figures == pytest.approx({"miou": 0.5, "pixel_accuracy": 4 / 6})
    # A class that is found and not true counts with 0.
    assert map_figures([(truth, np.full_like(found, 2))], "abcd")[1]["c"] == 0
    assert map_figures([(np.full((2, 2), 255), found[:, :2])], "abcd") == ({}, {})
