"""`ncm`, nearest class mean: the mean image of a class's pairs is its vector.

Source: Mensink et al. 2013. The baseline of whatever trains a head. Different here: where a class
has no pairs, the means are moved to the mean of the texts. Images are nearer to any image than to
a text (the modality gap, Liang et al. 2022, arXiv 2203.02053), so beside means no text would win.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.methods.head_method import HeadMethod

if TYPE_CHECKING:
    from torch import Tensor

    from react_pipeline.clip import ClassHead
    from react_pipeline.extensions.methods.head_samples import HeadSamples
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.training import TrainingLog


class Ncm(HeadMethod):
    """Nothing is trained: seconds on a processor."""

    name = "ncm"
    summary = "nothing: the mean image of a class's pairs is its vector, joined with its text"
    defaults = {"held_out_fraction": 0.1, "interpolation": "held-out"}

    def fit(
        self, samples: HeadSamples, training: TrainingConfig, log: TrainingLog
    ) -> tuple[ClassHead, dict[str, Any]]:
        """Take the means; a class without pairs keeps its text."""
        import torch
        from torch.nn.functional import normalize

        from react_pipeline.clip import ClassHead

        means, has_pairs = class_means(samples)
        if not has_pairs.all():
            gap = means[:, has_pairs].mean(dim=1) - samples.zero_shot[:, has_pairs].mean(dim=1)
            means -= gap[:, None]
        return ClassHead(torch.where(has_pairs, normalize(means, dim=0), samples.zero_shot)), {}


def class_means(samples: HeadSamples) -> tuple[Tensor, Tensor]:
    """The mean image vector of each class (D, C), 0 for a class without pairs, and which classes
    have pairs (C,).
    """
    import torch

    counts = torch.bincount(samples.class_ids, minlength=samples.zero_shot.shape[1])
    sums = torch.zeros_like(samples.zero_shot.T).index_add_(0, samples.class_ids, samples.images)
    return (sums / counts.clamp(min=1)[:, None]).T, counts > 0
