"""`gda`, Gaussian discriminant analysis: class means and one covariance of all pairs.

Source: Wang et al. 2024 (arXiv 2402.04087). Different here: of the classes that have pairs, the
mean of their scores is subtracted, which changes nothing among them, and lets a class without
pairs compete by its text. Shapes: N pairs, C classes, D embedding dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.methods.head_method import HeadMethod
from react_pipeline.extensions.methods.ncm import class_means

if TYPE_CHECKING:
    from torch import Tensor

    from react_pipeline.clip import ClassHead
    from react_pipeline.extensions.methods.head_samples import HeadSamples
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.training import TrainingLog


ROWS_AT_ONCE = 65_536
"""In double precision they are 256 MB with 512 dimensions."""


class Gda(HeadMethod):
    """Nothing is trained: seconds on a processor.

    logits_c = 100 x.t_c + a (x.w_c + b_c) with the zero-shot vector t_c, and a = 100 f for the
    interpolation f.
    """

    name = "gda"
    summary = "nothing: class means and one covariance of the pairs give vectors and biases"
    defaults = {"held_out_fraction": 0.1, "interpolation": "held-out"}
    grid = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    without_held_out = 0.01  # a = 1
    is_default = True

    def fit(
        self, samples: HeadSamples, training: TrainingConfig, log: TrainingLog
    ) -> tuple[ClassHead, dict[str, Any]]:
        """Add the evidence of the pairs to the zero-shot head."""
        from react_pipeline.clip import ClassHead

        weights, bias = evidence(samples)
        return ClassHead(samples.zero_shot + weights, bias), {}

    def join(self, zero_shot: ClassHead, trained: ClassHead, fraction: float) -> ClassHead:
        """Less of the evidence: logits are added, so no vector is made unit again."""
        return zero_shot.lerp(trained, fraction)


def evidence(samples: HeadSamples) -> tuple[Tensor, Tensor]:
    """Weights w (D, C) and biases b (C,); both are 0 for a class without pairs, and their means
    over the others are 0.

    With class means mu, the scatter of the pairs around them, and a precision P that shrinks
    their covariance to a multiple of the identity: w_c = P mu_c, b_c = -1/2 mu_c' P mu_c.
    """
    import torch

    means, has_pairs = class_means(samples)
    means = means.double()
    scatter = torch.zeros(len(means), len(means), dtype=torch.float64)
    for rows in torch.arange(len(samples.images)).split(ROWS_AT_ONCE):
        residuals = samples.images[rows].double() - means.T[samples.class_ids[rows]]
        scatter += residuals.T @ residuals
    variance = scatter.trace() / max(1, len(samples.images) - 1)
    shrunk = scatter + variance * torch.eye(len(scatter), dtype=torch.float64)
    weights = len(scatter) * torch.linalg.pinv(shrunk, hermitian=True) @ means
    bias = -0.5 * (means * weights).sum(dim=0)
    weights -= weights[:, has_pairs].mean(dim=1, keepdim=True)
    bias -= bias[has_pairs].mean()
    return (weights * has_pairs).float(), (bias * has_pairs).float()
