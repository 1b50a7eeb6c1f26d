"""Where boxes come from: the truth, a results file, or torchvision's proposals.

Does not belong here: what a box shows (`regions`). Boxes are x0 y0 x1 y1 in pixels, float32 (R, 4);
objectness is a fraction (R,), or None where a source has none. Proposals pass RegionCLIP's filter:
P(object) above 0.5, suppression at IoU 0.9, the best 1,000.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import box_convert, clip_boxes_to_image, nms
from torchvision.transforms.functional import pil_to_tensor

from react_pipeline.extensions.protocols import read_form
from react_pipeline.store import InputError

from .sets import BoxImages
from .settings import DenseConfig

Proposals = tuple[Tensor, Tensor | None]
Source = Callable[[int, Image.Image], Proposals]
"""Maps the number of an image in its set, and the image, to boxes and objectness."""

MIN_OBJECTNESS, MAX_OVERLAP, MAX_PROPOSALS = 0.5, 0.9, 1_000


def box_source(kind: str, images: BoxImages, config: DenseConfig, device: str) -> Source:
    """Return the source that `dense.boxes` names.

    Raises:
        InputError: If a file or checkpoint is missing or of another form.
    """
    if kind == "rpn":
        return _rpn(config, device)
    return _truth(images) if kind == "truth" else _file(images, config)


def _truth(images: BoxImages) -> Source:
    by_image = defaultdict(list)
    for box in images.truth["annotations"]:
        if not box["iscrowd"]:
            by_image[box["image_id"]].append(box["bbox"])
    return lambda position, image: (_corners(by_image[_id(images, position)], image), None)


class _Proposal(BaseModel):
    image_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    score: Annotated[float, Field(ge=0, le=1)]


def _file(images: BoxImages, config: DenseConfig) -> Source:
    path = config.boxes_path(images.entry.name)
    try:
        rows = read_form(path, list[_Proposal], "a COCO results JSON")
    except InputError as error:
        raise InputError(f"dense.boxes_file: {error}") from error
    by_image = defaultdict(list)
    for row in rows:
        if row.score > MIN_OBJECTNESS:
            by_image[row.image_id].append(row)
    if by_image.keys().isdisjoint(about["id"] for about in images.truth["images"]):
        raise InputError(f"dense.boxes_file: {path}: has no likely box of this set's images")

    def propose(position: int, image: Image.Image) -> Proposals:
        likely = by_image[_id(images, position)]
        boxes = _corners([row.bbox for row in likely], image)
        objectness = torch.tensor([row.score for row in likely])
        kept = nms(boxes, objectness, MAX_OVERLAP)
        kept = kept[(boxes[kept, 2:] > boxes[kept, :2]).all(dim=1)][:MAX_PROPOSALS]
        return boxes[kept], objectness[kept]

    return propose


def _id(images: BoxImages, position: int) -> int:
    return int(images.truth["images"][position]["id"])


def _corners(boxes: list[Any], image: Image.Image) -> Tensor:
    corners = box_convert(torch.tensor(boxes).reshape(-1, 4), "xywh", "xyxy")
    return clip_boxes_to_image(corners, (image.height, image.width))


class _NoHead(nn.Module):
    """Hands proposals on as detections, in the place of a detector's box head."""

    def forward(self, _: Any, proposals: list[Tensor], *__: Any) -> Any:
        return [{"boxes": boxes} for boxes in proposals], {}


def _rpn(config: DenseConfig, device: str) -> Source:
    from react_pipeline.clip import read_weights

    path = config.rpn_checkpoint or Path()
    weights = read_weights(path)
    try:
        model: Any = get_model(
            config.rpn_model,
            weights=None,
            weights_backbone=None,
            rpn_score_thresh=MIN_OBJECTNESS,
            rpn_nms_thresh=MAX_OVERLAP,
            rpn_post_nms_top_n_test=MAX_PROPOSALS,
        )
        model.roi_heads = _NoHead()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"dense.rpn_checkpoint: {path}: not a state dict of {config.rpn_model} ({reason})"
        ) from error
    model.eval().to(device)
    filter_proposals = model.rpn.filter_proposals
    objectness: list[Tensor] = []

    def keep_objectness(*given: Any) -> tuple[list[Tensor], list[Tensor]]:
        boxes, objectness[:] = filter_proposals(*given)
        return boxes, objectness

    model.rpn.filter_proposals = keep_objectness  # torchvision gives the boxes alone

    @torch.inference_mode()
    def propose(_: int, image: Image.Image) -> Proposals:
        (found,) = model([pil_to_tensor(image).to(device) / 255])
        return found["boxes"].cpu(), objectness[0].cpu()

    return propose
