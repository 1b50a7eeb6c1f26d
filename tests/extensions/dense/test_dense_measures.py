"""Figures against calculations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from react_pipeline.extensions.dense.measures import box_figures, map_figures, proposal_figures

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
