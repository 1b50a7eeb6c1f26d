"""Open-vocabulary detection without training: vectors of boxes against class vectors, fusion,
suppression.

Does not belong here: where boxes come from (`boxes`), average precision (`measures`).
Shapes: R boxes, x0 y0 x1 y1 in pixels; C classes; D embedding dimension.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, roi_align

from react_pipeline.clip import EVALUATION_PRECISION, Clip, arithmetic
from react_pipeline.embedding import Encoder

from .maps import ClassVectors, normalized, padded, resized
from .measures import MAX_BOXES
from .settings import DenseConfig
from .tower import DenseTower

SURROUNDINGS = 1.5
"""Sides of the second crop of a box, in sides of the first (ViLD, arXiv 2104.13921)."""
RESNET_SIDES = 800, 1_333
"""Short and longest side for regions of a ResNet, as in RegionCLIP."""
MIN_SCORE, MAX_OVERLAP = 0.001, 0.5


class Detector:
    """Classifies boxes of an image by the class names alone."""

    def __init__(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str], config: DenseConfig
    ) -> None:
        """Encode the class names.

        Raises:
            Unavailable: If regions are to be cut from dense features and the tower has none.
        """
        self.clip = clip
        self.config = config
        self.vectors = ClassVectors.of(clip, class_names, templates)
        of_map = config.regions == "roi"
        self.tower = DenseTower(clip.model, config.attention) if of_map else None
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
        scores = self.vectors.logits(self.region_vectors(image, boxes)).softmax(dim=-1).cpu()
        if objectness is not None:
            scores = (scores * objectness[:, None]).sqrt()
        rows, classes = (scores > MIN_SCORE).nonzero(as_tuple=True)
        shares = scores[rows, classes]
        kept = batched_nms(boxes[rows], shares, classes, MAX_OVERLAP)[:MAX_BOXES]
        return boxes[rows[kept]], shares[kept], classes[kept]

    def region_vectors(self, image: Image.Image, boxes: Tensor) -> Tensor:
        """Encode boxes (R, 4) to unit vectors (R, D).

        For `roi` the image keeps its ratio, and is padded to whole patches. For `crop` the box and
        its surroundings are resized as squares, all of an image in one batch; RoIAlign pads what is
        beyond the image with zeros, the mean colour.
        """
        device = self.clip.device
        if self.tower is not None:
            short, longest = RESNET_SIDES if self.tower.is_resnet else (self.tower.size, None)
            fitted = resized(image, self.config.short_side or short, longest)
            scale = torch.tensor([fitted.width / image.width, fitted.height / image.height] * 2)
            pixels = padded(normalized(self.clip, fitted), self.tower.stride)
            return self.tower.regions(pixels, (boxes * scale).to(device))
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
    half = ((boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * factor / 2).clamp(
        max=max(size) / 2
    )
    # Where the square is the longer one, both bounds are the middle of the image.
    lowest = half.minimum(limits / 2)
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).clamp(lowest, limits - lowest)
    return torch.cat([centres - half, centres + half], dim=1)
