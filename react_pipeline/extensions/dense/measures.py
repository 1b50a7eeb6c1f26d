"""Figures of boxes and of label maps: average precision by pycocotools, intersection over union by
one matrix.

Does not belong here: predicting (`dense_regions`, `dense_maps`), what is published
(`dense_results`). Shapes: C classes, N pixels.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.installation import install_command
from react_pipeline.store import InputError

from .settings import IGNORED

MAX_BOXES = 100
"""An image, as in COCO."""


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """How many pixels of each class (row) were found to be of each class (column), (C, C); ignored
    ones count not.
    """
    counted = truth != IGNORED
    pairs = truth[counted] * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class (C,) over all images together; NaN where it is neither in the truth nor
    found.
    """
    hits = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(matrix), np.nan), where=union > 0)


def map_figures(matrix: NDArray[np.int64]) -> dict[str, float]:
    """`miou`, `pixel_accuracy` and `classes` (how many the mean is over); nothing where no pixel
    counts.
    """
    if not (total := matrix.sum()):
        return {}
    ious = intersection_over_union(matrix)
    return {
        "miou": float(np.nanmean(ious)),
        "pixel_accuracy": float(np.trace(matrix) / total),
        "classes": float(np.isfinite(ious).sum()),
    }


def box_figures(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of detections as COCO computes them, and the AP50 of each class that has boxes.

    Args:
        truth: COCO's JSON.
        detections: Its results: image_id, category_id, bbox (x, y, width, height), score.
        groups: Names of classes that are averaged by themselves too, as `ap50_<group>`; all classes
            compete.

    Returns:
        `ap`, `ap50` and those of the groups, fractions; AP50 by class name.
    """
    precision = _evaluated(truth, detections).eval["precision"][
        :, :, :, 0, -1
    ]  # IoU, recall, class; all areas
    names = [
        category["name"]
        for category in sorted(truth["categories"], key=lambda category: category["id"])
    ]
    figures = {}
    for suffix, chosen in {
        "": names,
        **{f"_{name}": group for name, group in groups.items()},
    }.items():
        part = precision[:, :, np.isin(names, list(chosen))]
        for figure, values in ((f"ap{suffix}", part), (f"ap50{suffix}", part[0])):
            if (values > -1).any():
                figures[figure] = float(values[values > -1].mean())
    classes = {
        name: values.mean()
        for name, values in zip(names, precision[0].T, strict=True)
        if values.max() > -1
    }
    return figures, {name: float(value) for name, value in classes.items()}


def proposal_figures(
    truth: Mapping[str, Any], proposals: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The part of all true boxes that one of the first 100 or 1,000 proposals overlaps by half, of
    any class.
    """
    recall = _evaluated(truth, proposals, classes=False, limits=(1, 100, 1_000)).eval["recall"][
        0, 0, 0
    ]
    return {
        f"proposal_recall_{count}": float(value)
        for count, value in zip((100, 1_000), recall[1:], strict=True)
    }


def _evaluated(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    classes: bool = True,
    limits: tuple[int, ...] = (1, 10, MAX_BOXES),
) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InputError(
            f"average precision needs pycocotools: {install_command('dense')}"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        loaded = COCO()
        loaded.dataset = {**truth, "info": {}}
        loaded.createIndex()
        results = loaded.loadRes([dict(box) for box in detections]) if detections else COCO()
        evaluated = COCOeval(loaded, results, "bbox")
        evaluated.params.imgIds = sorted(image["id"] for image in truth["images"])
        evaluated.params.catIds = sorted(category["id"] for category in truth["categories"])
        evaluated.params.useCats = int(classes)
        evaluated.params.maxDets = list(limits)
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated
