"""Contrastive losses of image-text training: functions of the vectors of a batch.

Shapes: B pairs of a batch, D embedding dimension.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from react_pipeline.store import InputError


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    captions: Tensor | None = None,
    classes: Tensor | None = None,
    kind: str = "infonce",
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a batch of pairs.

    - `infonce`: symmetric cross-entropy, only the diagonal is positive (CLIP; what REACT trains
      with).
    - `infonce-captions`: pairs of equal caption are positives of each other, each with an equal
      share of the target.
    - `unicl`: pairs of equal caption or class are positives of each other (UniCL, arXiv
      2204.03610).
    - `sigmoid`: each similarity is a decision of its own (SigLIP, arXiv 2303.15343).

    Args:
        images: Unit vectors (B, D).
        texts: Unit vectors (B, D), of the same pairs.
        scale: exp(logit scale), a scalar.
        captions: Ids (B,); equal ids are equal texts. `infonce` and `sigmoid` need none.
        classes: Ids (B,) of the classes, below 0 where a pair has none; for `unicl`.
        bias: SigLIP's logit bias, a scalar; `sigmoid` needs it (`require_suitable`).
    """
    logits = scale * images @ texts.T
    if kind == "sigmoid":
        assert bias is not None  # noqa: S101 - `require_suitable` refuses such models
        signs = 2 * torch.eye(len(logits), device=logits.device) - 1
        return -functional.logsigmoid(signs * (logits + bias)).sum(dim=1).mean()
    own = torch.arange(len(logits), device=logits.device)
    if kind == "infonce":
        return _both_ways(logits, own)
    assert captions is not None  # noqa: S101 - of a kind that compares captions
    alike = captions[:, None] == captions[None, :]
    if kind == "unicl":
        assert classes is not None  # noqa: S101 - of a kind that compares classes
        alike |= (classes[:, None] == classes[None, :]) & (classes[:, None] >= 0)
    shares = alike.to(logits.dtype)
    # The relation is symmetric, so the same shares serve both directions.
    return _both_ways(logits, shares / shares.sum(dim=1, keepdim=True))


def require_suitable(kind: str, model: nn.Module) -> None:
    """Refuse a loss that a model has no parameter for.

    Raises:
        InputError: If it is `sigmoid` and the model has no logit bias.
    """
    if kind == "sigmoid" and getattr(model, "logit_bias", None) is None:
        raise InputError(
            "customization.loss: sigmoid is for models trained with it (SigLIP): this model has no "
            "logit bias; use infonce"
        )


def _both_ways(logits: Tensor, target: Tensor) -> Tensor:
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2
