"""Figures against the libraries of the field, and against calculations by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from react_pipeline.extensions.dense.measures import (
    box_figures,
    map_figures,
    proposal_figures,
)

IDS = (1, 4, 9, 30)
NAMES = ("a", "b", "c", "d")


def scenes() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth with crowd regions and a class without boxes (d), and detections that are
    partly right.
    """
    chance = np.random.default_rng(0)
    boxes, found = [], []
    for number in range(48):
        left, top = chance.uniform(0, 60, 2)
        width, height = chance.uniform(10, 40, 2)
        about = {"image_id": number // 4, "category_id": IDS[int(chance.integers(3))]}
        crowd = {"iscrowd": int(number % 7 == 6), "area": width * height, "id": number + 1}
        boxes.append({**about, **crowd, "bbox": [left, top, width, height]})
        if chance.random() < 0.4:
            about["category_id"] = IDS[int(chance.integers(4))]
        left, top = (side + chance.normal(0, 2) for side in (left, top))
        found.append({**about, "bbox": [left, top, width, height], "score": chance.random()})
    truth = {
        "images": [{"id": image, "width": 100, "height": 100} for image in range(12)],
        "annotations": boxes,
        "categories": [{"id": one, "name": name} for one, name in zip(IDS, NAMES, strict=True)],
    }
    return truth, found


def by_hand(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "info": {}}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([dict(box) for box in found]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_average_precision_is_that_of_pycocotools() -> None:
    truth, found = scenes()
    figures, classes = box_figures(
        truth, found, {"base": ["a", "d"], "novel": ["b", "c"], "none": ["d"]}
    )
    wanted = by_hand(truth, found)
    assert [figures["ap"], figures["ap50"]] == pytest.approx(wanted.stats[:2])
    precision = wanted.eval["precision"][0, :, :, 0, 2]
    assert set(classes) == {"a", "b", "c"} and 0 < figures["ap50"] < 1
    assert classes["b"] == pytest.approx(precision[:, 1].mean())
    # Of a group those classes count that have boxes; one without any has no figure.
    assert figures["ap50_base"] == pytest.approx(precision[:, 0].mean())
    assert figures["ap50_novel"] == pytest.approx(precision[:, 1:3].mean())
    assert "ap50_none" not in figures


def test_all_right_detections_are_1_and_none_are_0() -> None:
    truth, _ = scenes()
    right = [{**box, "score": 0.5} for box in truth["annotations"]]
    assert box_figures(truth, right, {})[0] == {"ap": 1.0, "ap50": 1.0}
    assert box_figures(truth, [], {})[0] == {"ap": 0.0, "ap50": 0.0}
    assert box_figures({**truth, "annotations": []}, right[:1], {})[0] == {}


def test_recall_of_proposals_counts_boxes_of_any_class() -> None:
    truth, _ = scenes()
    mine = [box for box in truth["annotations"] if not box["iscrowd"]]
    proposals = [{**box, "category_id": IDS[0], "score": 1.0} for box in mine]
    found = proposal_figures(truth, proposals[::2])["proposal_recall_100"]
    assert found == pytest.approx(0.5, abs=0.15)
    assert proposal_figures(truth, proposals)["proposal_recall_1000"] == 1


def test_iou_by_hand_with_ignored_pixels_and_absent_classes() -> None:
    truth = np.array([[0, 0, 1, 1], [255, 255, 1, 0]])
    found = np.array([[0, 1, 1, 1], [3, 0, 0, 0]])
    # Over all images together, not the mean over images.
    figures, ious = map_figures(zip(truth, found, strict=True), 4)
    # 0: two of the union {0,0,0 true; one more found} = 2 / 4; 1: 2 / 4; 2 is nowhere, 3 is found
    # on an ignored pixel.
    np.testing.assert_equal(ious, [0.5, 0.5, np.nan, np.nan])
    assert figures == pytest.approx({"miou": 0.5, "pixel_accuracy": 4 / 6})
    # A class that is found and not true counts with 0.
    assert map_figures([(truth, np.full_like(found, 2))], 4)[1][2] == 0
    assert map_figures([(np.full((2, 2), 255), found[:, :2])], 4)[0] == {}
