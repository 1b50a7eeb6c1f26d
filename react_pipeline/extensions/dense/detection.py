"""Open-vocabulary detection without training: where boxes come from, and their classes by name.

Boxes pass RegionCLIP's filter: P(object) above 0.5, suppression at IoU 0.9, the best 1,000. Does
not belong here: average precision (`measures`). Shapes: R boxes, x0 y0 x1 y1 in pixels, float32 (R,
4); C classes; D embedding dimension.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as functional
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat
from torch import Tensor
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image, nms, roi_align

from react_pipeline.clip import EVALUATION_PRECISION, Clip, arithmetic, zero_shot_head
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.elevater import read_form
from react_pipeline.store import InputError

from .maps import class_logits, normalized
from .measures import MAX_BOXES
from .sets import BoxImages
from .settings import DenseConfig

Source = Callable[[int], tuple[Tensor, Tensor | None]]
"""Maps the number of an image in its set to boxes (R, 4) and objectness, a fraction (R,), or None
where a source has none.
"""

MIN_OBJECTNESS, MAX_PROPOSAL_OVERLAP, MAX_PROPOSALS = 0.5, 0.9, 1_000
SURROUNDINGS = 1.5
"""Sides of the second crop of a box, in sides of the first (ViLD, arXiv 2104.13921)."""
MIN_SCORE, MAX_OVERLAP = 0.001, 0.5


def true_boxes(images: BoxImages) -> Source:
    """Return the source of the true boxes, without crowds."""
    by_image = defaultdict(list)
    for box in images.truth["annotations"]:
        if not box["iscrowd"]:
            by_image[box["image_id"]].append(box["bbox"])
    return lambda position: (_corners(images, position, by_image[images.id(position)]), None)


class _Proposal(BaseModel):
    image_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    score: Annotated[float, Field(ge=0, le=1)]


def boxes_of_file(images: BoxImages, config: DenseConfig) -> Source:
    """Return the source of the boxes in a set's results file.

    Raises:
        InputError: If it is missing, of another form, or of other images.
    """
    path = config.boxes_path(images.entry.name)
    try:
        rows = read_form(path, list[_Proposal], "a COCO results JSON")
    except InputError as error:
        raise InputError(f"dense.boxes: {error}") from error
    by_image = defaultdict(list)
    for row in rows:
        if row.score > MIN_OBJECTNESS:
            by_image[row.image_id].append(row)
    if by_image.keys().isdisjoint(about["id"] for about in images.truth["images"]):
        raise InputError(f"dense.boxes: {path}: has no likely box of this set's images")

    def propose(position: int) -> tuple[Tensor, Tensor]:
        likely = by_image[images.id(position)]
        boxes = _corners(images, position, [row.bbox for row in likely])
        objectness = torch.tensor([row.score for row in likely])
        kept = nms(boxes, objectness, MAX_PROPOSAL_OVERLAP)
        kept = kept[(boxes[kept, 2:] > boxes[kept, :2]).all(dim=1)][:MAX_PROPOSALS]
        return boxes[kept], objectness[kept]

    return propose


def _corners(images: BoxImages, position: int, boxes: list[Any]) -> Tensor:
    about = images.truth["images"][position]
    corners = box_convert(torch.tensor(boxes).reshape(-1, 4), "xywh", "xyxy")
    return clip_boxes_to_image(corners, (about["height"], about["width"]))


def coco_rows(
    images: BoxImages, position: int, boxes: Tensor, scores: Tensor, classes: Tensor
) -> list[dict[str, Any]]:
    """Return boxes (R, 4) of an image as COCO writes them, with scores and class ids (R,)."""
    categories = [category["id"] for category in images.truth["categories"]]
    sized = box_convert(boxes, "xyxy", "xywh").tolist()
    return [
        {
            "image_id": images.id(position),
            "category_id": categories[number],
            "bbox": [round(value, 2) for value in box],
            "score": round(score, 5),
        }
        for number, box, score in zip(classes.tolist(), sized, scores.tolist(), strict=True)
    ]


class Detector:
    """Classifies boxes of an image by the class names alone."""

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Encode the class names."""
        self.clip = clip
        self.head = zero_shot_head(clip, class_names, templates).to(clip.device)
        self.encode = Encoder(clip, EVALUATION_PRECISION).images

    @arithmetic()
    @torch.inference_mode()
    def __call__(
        self, image: Image.Image, boxes: Tensor, objectness: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (n, 4), scores (n,) and class ids (n,) of at most `MAX_BOXES` detections,
        best first.

        A score is the share of the class among all; with objectness (R,), a fraction, the root of
        the product of both. RegionCLIP takes the raw logit there, which may be negative, and also
        has a background of logit 0, whose share is nil where cosines are CLIP's (100 x 0.2 and
        more).
        """
        if not len(boxes):
            return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        scores = class_logits(self.region_vectors(image, boxes), self.head)
        scores = scores.softmax(dim=-1).cpu()
        if objectness is not None:
            scores = (scores * objectness[:, None]).sqrt()
        rows, classes = (scores > MIN_SCORE).nonzero(as_tuple=True)
        shares = scores[rows, classes]
        kept = batched_nms(boxes[rows], shares, classes, MAX_OVERLAP)[:MAX_BOXES]
        return boxes[rows[kept]], shares[kept], classes[kept]

    def region_vectors(self, image: Image.Image, boxes: Tensor) -> Tensor:
        """Encode boxes (R, 4) to unit vectors (R, D): the box and its surroundings as squares, all
        of an image in one batch. RoIAlign pads what is beyond the image with zeros, the mean
        colour.
        """
        device = self.clip.device
        size = self.clip.preprocess_cfg["size"]
        side = size if isinstance(size, int) else size[0]
        crops = torch.cat([squares(boxes, factor, image.size) for factor in (1.0, SURROUNDINGS)])
        pixels = roi_align(normalized(self.clip, image), [crops.to(device)], side, aligned=True)
        inner, outer = self.encode(pixels).to(device).chunk(2)
        return functional.normalize(inner + outer, dim=-1)


def squares(boxes: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Return squares around boxes (R, 4), at most as large as the longer side of an image of
    (width, height).

    They are moved into the image; along a side that is shorter than the square, they are centred on
    the image.
    """
    limits = torch.tensor(size, dtype=boxes.dtype)
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * factor / 2
    half = half.clamp(max=max(size) / 2)
    # Where the square is the longer one, both bounds are the middle of the image.
    lowest = half.minimum(limits / 2)
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).clamp(lowest, limits - lowest)
    return torch.cat([centres - half, centres + half], dim=1)
