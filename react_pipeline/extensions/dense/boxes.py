"""Where boxes come from: the truth, a results file, torchvision's proposals, parts of a drawing, or
a grid.

Does not belong here: what a box shows (`dense_regions`). Boxes are x0 y0 x1 y1 in pixels, float32
(R, 4); objectness is a fraction (R,), or None where a source has none.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.models import get_model
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_convert, clip_boxes_to_image

from react_pipeline.store import InputError, read_json_bounded

from .sets import DenseImages
from .settings import DenseConfig

Proposals = tuple[Tensor, Tensor | None]
Source = Callable[[int, Image.Image], Proposals]
"""Number of an image in its set, and the image, to boxes and objectness."""

MIN_DIFFERENCE = 24
"""From the colour of the border (0-255, any channel), for a pixel to belong to an object."""
EROSIONS = (0, 1, 3, 6, 10)
"""Pixels taken off before parts are separated, so that objects that touch are separated too."""
MIN_SIDE = 20
MAX_UNITED = 6
"""Largest parts of which all pairs are united: a drawing may have several parts."""
GRID_SIDES, GRID_RATIOS = (1.0, 0.6, 0.4, 0.25), (0.5, 1.0, 2.0)
MAX_PROPOSALS = 1_000


def box_source(kind: str, images: DenseImages, config: DenseConfig, device: str) -> Source:
    """The source that `dense.boxes` names.

    Raises:
        InputError: If a file or checkpoint is missing or of another form.
    """
    if kind in ("objects", "grid"):
        propose = objects if kind == "objects" else grid
        return lambda _, image: (propose(image), None)
    if kind == "rpn":
        return _rpn(config, device)
    ids = [about["id"] for about in (images.truth or {})["images"]]
    by_image = _truth(images) if kind == "truth" else _file(images, config)
    return lambda position, image: _cut(by_image.get(ids[position], []), image)


def objects(image: Image.Image) -> Tensor:
    """Boxes of parts that differ from the colour of the border, with all unions of two of the
    largest.

    For drawings on a plain ground; of a photograph it makes little.
    """
    pixels = np.asarray(image).astype(np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    mask = (abs(pixels - np.median(border, axis=0)) > MIN_DIFFERENCE).any(axis=2)
    areas: dict[tuple[int, ...], int] = {}
    for taken in EROSIONS:
        eroded = ndimage.binary_erosion(mask, iterations=taken) if taken else mask
        for part in ndimage.find_objects(ndimage.label(eroded, np.ones((3, 3)))[0]):
            (top, bottom), (left, right) = ((side.start, side.stop) for side in part)
            box = (left - taken, top - taken, right + taken, bottom + taken)
            areas[box] = (box[2] - box[0]) * (box[3] - box[1])
    boxes = sorted(areas, key=lambda box: -areas[box])
    for one, other in combinations(boxes[:MAX_UNITED], 2):
        corners = zip(one, other, strict=True)
        left, top, right, bottom = ((min(pair), max(pair)) for pair in corners)
        boxes.append((left[0], top[0], right[1], bottom[1]))
    return _usable(np.array(boxes, np.float32).reshape(-1, 4), image)


def grid(image: Image.Image) -> Tensor:
    """Boxes of several sizes and ratios at all places, overlapping by half: proposals that know
    nothing of objects.
    """
    width, height = image.size
    boxes = []
    for side in GRID_SIDES:
        for ratio in GRID_RATIOS:
            wide, tall = (min(width, height) * side * ratio**power for power in (0.5, -0.5))
            for x in np.arange(0, max(width - wide, 0) + 1, wide / 2):
                for y in np.arange(0, max(height - tall, 0) + 1, tall / 2):
                    boxes.append((x, y, x + wide, y + tall))
    return _usable(np.array(boxes, np.float32), image)


def _usable(boxes: NDArray[np.float32], image: Image.Image) -> Tensor:
    inside = clip_boxes_to_image(torch.from_numpy(boxes), (image.height, image.width)).unique(dim=0)
    wide = (inside[:, 2:] - inside[:, :2]).amin(dim=1) >= MIN_SIDE
    return inside[wide][:MAX_PROPOSALS]


def _truth(images: DenseImages) -> Mapping[int, list[Any]]:
    boxes = defaultdict(list)
    for box in (images.truth or {})["annotations"]:
        if not box["iscrowd"]:
            boxes[box["image_id"]].append((box["bbox"], None))
    return boxes


def _file(images: DenseImages, config: DenseConfig) -> Mapping[int, list[Any]]:
    path = (config.root or Path()) / config.boxes_file.replace("{dataset}", images.entry.name)
    ids = {about["id"] for about in (images.truth or {})["images"]}
    boxes = defaultdict(list)
    try:
        for row in read_json_bounded(path):
            if row["image_id"] in ids:
                left, top, width, height = map(float, row["bbox"])
                boxes[row["image_id"]].append(([left, top, width, height], float(row["score"])))
    except OSError as error:
        raise InputError(
            f"dense.boxes_file: {path}: cannot be read ({error.strerror or error})"
        ) from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"dense.boxes_file: {path}: is not a COCO results JSON ({type(error).__name__}: "
            f"{error})"
        ) from error
    scores = [score for rows in boxes.values() for _, score in rows]
    if not boxes or not 0 <= min(scores) <= max(scores) <= 1:
        raise InputError(
            f"dense.boxes_file: {path}: needs boxes of this set's images, with scores between 0 "
            "and 1"
        )
    return boxes


def _cut(rows: list[Any], image: Image.Image) -> Proposals:
    boxes = torch.tensor([box for box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    boxes = clip_boxes_to_image(box_convert(boxes, "xywh", "xyxy"), (image.height, image.width))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    scores = (
        None if not rows or rows[0][1] is None else torch.tensor([score for _, score in rows])[kept]
    )
    return boxes[kept], scores


def _rpn(config: DenseConfig, device: str) -> Source:
    from react_pipeline.clip import read_weights

    path = config.rpn_checkpoint or Path()
    weights = read_weights(path)
    heads = [weights[name] for name in weights if name.endswith("box_predictor.cls_score.weight")]
    try:
        classes = len(heads[0])
        model: Any = get_model(
            config.rpn_model, weights=None, weights_backbone=None, num_classes=classes
        )
        model.load_state_dict(weights)
    except (IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"dense.rpn_checkpoint: {path}: not a state dict of {config.rpn_model} ({reason})"
        ) from error
    model.eval().to(device)

    @torch.inference_mode()
    def propose(_: int, image: Image.Image) -> Proposals:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device).float() / 255
        batch, _ = model.transform([pixels])
        features = list(model.backbone(batch.tensors).values())
        rpn = model.rpn
        objectness, deltas = rpn.head(features)
        anchors = rpn.anchor_generator(batch, features)
        per_level = [level[0].numel() for level in objectness]
        scores, deltas = concat_box_prediction_layers(objectness, deltas)
        proposals = rpn.box_coder.decode(deltas, anchors).reshape(1, -1, 4)
        boxes, shares = rpn.filter_proposals(proposals, scores, batch.image_sizes, per_level)
        tall, wide = batch.image_sizes[0]
        scale = torch.tensor([image.width / wide, image.height / tall]).repeat(2)
        return boxes[0].cpu() * scale, shares[0].cpu()

    return propose
