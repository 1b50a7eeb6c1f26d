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
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact
from react_pipeline.training import ImageEncoder, Views

logger = logging.getLogger(__name__)


def labelled_accuracy(project: Project, slug: str, clip: Clip) -> LabelledAccuracy | None:
    """The published labelled images of a domain; None, with a warning, where they are unavailable.

    The set is published before any training: it is kept out of the pairs.
    """
    published = fresh(project, "evaluation_set", slug)
    if reason := published.counts.get("unavailable"):
        logger.warning(
            "customization.evaluate_every: nothing is measured while training: %s", reason
        )
        return None
    return LabelledAccuracy(clip, project.domain(slug), published, project.config.corpus.max_pixels)


class LabelledAccuracy:
    """Measures with a domain's labelled images as `evaluation.evaluate` does, in the precision of
    the training.
    """

    def __init__(
        self, clip: Clip, domain: DomainConfig, published: Artifact, max_pixels: int
    ) -> None:
        """Read which images there are; larger ones than `max_pixels` are refused. The class vectors
        of a text tower that does not train are kept: it may leave the memory.
        """
        self._clip = clip
        self._domain = domain
        images = read_images(published, domain)
        pixels = Pixels(preprocessing_for(clip, domain))
        decoded = PublishedImages(tuple(images["path"]), tuple(images["sha256"]), max_pixels)
        self._views = Views(decoded, pixels)
        self._class_ids = torch.tensor(images["class_id"].to_numpy(), dtype=torch.long)
        self._frozen_head = None if trains_text(clip.model) else self._head()

    def __call__(self, encoder: ImageEncoder) -> dict[str, float]:
        """Top-1 of the model in training, as a fraction; every process encodes a part of the
        images.
        """
        vectors = encoder.vectors(self._views, torch.arange(len(self._class_ids)))
        head = self._head() if self._frozen_head is None else self._frozen_head
        return {
            "evaluation_top1": float(
                ((vectors @ head).argmax(dim=1) == self._class_ids).double().mean()
            )
        }

    @torch.no_grad()
    def _head(self) -> Tensor:
        return domain_head(self._clip, self._domain)
