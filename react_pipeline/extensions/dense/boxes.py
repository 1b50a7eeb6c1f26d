"""Where boxes come from: the truth, a results file, or torchvision's proposals.

Does not belong here: what a box shows (`regions`). Boxes are x0 y0 x1 y1 in pixels, float32 (R, 4);
objectness is a fraction (R,), or None where a source has none. Proposals pass RegionCLIP's filter:
P(object) above 0.5, suppression at IoU 0.9, the best 1,000.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import get_model
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_convert, clip_boxes_to_image, nms

from react_pipeline.store import InputError, read_json_bounded

from .sets import DenseImages
from .settings import DenseConfig

Proposals = tuple[Tensor, Tensor | None]
Source = Callable[[int, Image.Image], Proposals]
"""Maps the number of an image in its set, and the image, to boxes and objectness."""

MIN_OBJECTNESS, MAX_OVERLAP, MAX_PROPOSALS = 0.5, 0.9, 1_000


def box_source(kind: str, images: DenseImages, config: DenseConfig, device: str) -> Source:
    """Return the source that `dense.boxes` names.

    Raises:
        InputError: If a file or checkpoint is missing or of another form.
    """
    if kind == "rpn":
        return _rpn(config, device)
    ids = [about["id"] for about in (images.truth or {})["images"]]
    by_image = _truth(images) if kind == "truth" else _file(images, config)
    return lambda position, image: _cut(by_image.get(ids[position], []), image)


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
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
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
    if not rows or rows[0][1] is None:
        return boxes[kept], None
    return _filter(boxes[kept], torch.tensor([score for _, score in rows])[kept])


def _filter(boxes: Tensor, objectness: Tensor) -> Proposals:
    likely = objectness > MIN_OBJECTNESS
    boxes, objectness = boxes[likely], objectness[likely]
    kept = nms(boxes, objectness, MAX_OVERLAP)[:MAX_PROPOSALS]
    return boxes[kept], objectness[kept]


def _rpn(config: DenseConfig, device: str) -> Source:
    from react_pipeline.clip import read_weights

    path = config.rpn_checkpoint or Path()
    weights = read_weights(path)
    heads = [weights[name] for name in weights if name.endswith("box_predictor.cls_score.weight")]
    filters = {"rpn_nms_thresh": MAX_OVERLAP, "rpn_post_nms_top_n_test": MAX_PROPOSALS}
    try:
        classes = len(heads[0])
        model: Any = get_model(
            config.rpn_model, weights=None, weights_backbone=None, num_classes=classes, **filters
        )
        model.load_state_dict(weights)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
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
        return _filter(boxes[0].cpu() * scale, shares[0].cpu())

    return propose
