"""Accuracy on a domain's labelled images while a training runs: a curve to look at, on which
nothing depends.

Neither the steps, nor a guard, nor the interpolation sees what is measured here: then the images
would be trained on. So `evaluate_every` is in no fingerprint, and `evaluation_set` no parent.
Shapes: D embedding dimension, C classes.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from react_pipeline.clip import Clip, Pixels, domain_head, trains_text
from react_pipeline.labelled import PublishedImages, preprocessing_for, read_images
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.training import ImageEncoder, Probe, Views

logger = logging.getLogger(__name__)


def labelled_accuracy(project: Project, slug: str, clip: Clip) -> Probe | None:
    """Measure top-1 on a domain's published images as `evaluation.evaluate` does, in the precision
    of the training, as a fraction; None, with a warning, where they are unavailable.

    The set is published before any training: it is kept out of the pairs.
    """
    published = fresh(project, "evaluation_set", slug)
    if reason := published.counts.get("unavailable"):
        logger.warning(
            "customization.evaluate_every: nothing is measured while training: %s", reason
        )
        return None
    domain = project.domain(slug)
    images = read_images(published, domain)
    pixels = Pixels(preprocessing_for(clip, domain))
    decoded = PublishedImages(
        tuple(images["path"]), tuple(images["sha256"]), project.config.corpus.max_pixels
    )
    views = Views(decoded, pixels)
    class_ids = torch.tensor(images["class_id"].to_numpy(), dtype=torch.long)

    @torch.no_grad()
    def head() -> Tensor:
        return domain_head(clip, domain)

    # A text tower that does not train may leave the memory.
    frozen_head = None if trains_text(clip.model) else head()

    def measure(encoder: ImageEncoder) -> dict[str, float]:
        vectors = encoder.vectors(views, torch.arange(len(class_ids)))
        scores = vectors @ (head() if frozen_head is None else frozen_head)
        right = scores.argmax(dim=1) == class_ids
        return {"evaluation_top1": float(right.double().mean())}

    return measure
