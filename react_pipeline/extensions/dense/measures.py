"""Figures of boxes and of label maps: average precision by pycocotools, intersection over union by
torchmetrics.

Does not belong here: predicting (`detection`, `maps`), what is published (`results`). Shapes: C
classes.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.classification import MulticlassJaccardIndex

from .settings import IGNORED

MAX_BOXES = 100
"""An image, as in COCO."""


def map_figures(
    maps: Iterable[tuple[NDArray[Any], NDArray[Any]]], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return figures of label maps over all images together, and the IoU of each class that is in
    the truth or found.

    Args:
        maps: For each image the true and the predicted class ids (H, W); `IGNORED` pixels of the
            truth are not counted.
        names: Class names, in the order of class ids.

    Returns:
        `miou`, over the classes that have an IoU, and `pixel_accuracy`; nothing where no pixel
        counts.
    """
    metric = MulticlassJaccardIndex(
        len(names), average=None, ignore_index=IGNORED, zero_division=np.nan
    )
    for truth, found in maps:
        metric.update(*(torch.from_numpy(ids.astype(np.int64)) for ids in (found, truth)))
    matrix = metric.confmat
    if not matrix.sum():
        return {}, {}
    ious = zip(names, metric.compute().tolist(), strict=True)
    of_class = {name: iou for name, iou in ious if not np.isnan(iou)}
    accuracy = float(matrix.trace() / matrix.sum())
    return {"miou": float(np.mean(list(of_class.values()))), "pixel_accuracy": accuracy}, of_class


def box_figures(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return figures of detections as COCO computes them, and the AP50 of each class that has
    boxes.

    Args:
        truth: COCO's JSON.
        detections: Its results: image_id, category_id, bbox (x, y, width, height), score.
        groups: Names of classes that are averaged by themselves too, as `ap50_<group>`; all classes
            compete.

    Returns:
        `ap`, `ap50` and those of the groups, fractions; AP50 by class name.
    """
    # IoU, recall, class; all areas, the most boxes.
    precision = _evaluate(truth, detections).eval["precision"][:, :, :, 0, -1]
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    figures = {}
    for group, chosen in {"": names, **groups}.items():
        suffix = f"_{group}" if group else ""
        part = precision[:, :, np.isin(names, list(chosen))]
        for figure, values in ((f"ap{suffix}", part), (f"ap50{suffix}", part[0])):
            if (values > -1).any():
                figures[figure] = float(values[values > -1].mean())
    by_class = zip(names, precision[0].T, strict=True)
    return figures, {name: float(row.mean()) for name, row in by_class if row.max() > -1}


def proposal_figures(
    truth: Mapping[str, Any], proposals: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the part of all true boxes that one of the first 100 or 1,000 proposals overlaps by
    half, of any class.
    """
    limits = [1, 100, 1_000]
    recall = _evaluate(truth, proposals, useCats=0, maxDets=limits).eval["recall"][0, 0, 0]
    return {f"proposal_recall_{limits[place]}": float(recall[place]) for place in (1, 2)}


def _evaluate(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], **params: Any
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        loaded = COCO()
        loaded.dataset = {**truth, "info": {}}
        loaded.createIndex()
        results = loaded.loadRes([dict(box) for box in detections]) if detections else COCO()
        evaluated = COCOeval(loaded, results, "bbox")
        vars(evaluated.params).update(params)
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated
