"""A linear head as ELEVATER builds it: where it starts, its loss, its batches, how it is scored.

Does not belong here: training it (`trainer`). Shapes: N examples, B of them in a batch, D width of
the features, C classes, T trials.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name
from torch.utils.data import DataLoader

from .metrics import measure
from .sweep import Curve

MOMENTUM, BATCH_SIZE, SEED = 0.9, 64, 0
"""Of SGD and of the batches, as in the benchmark; their order is the same in each trial."""

NOT_FINITE = "values are not finite"
"""The failure of a trial whose weights or logits overflow: learning rate times weight decay is too
large.
"""


@dataclass(frozen=True)
class Head:
    """Where a head starts: weight (C, D), and bias (C,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def from_text(cls, zero_shot: Tensor) -> Self:
        """Start from class vectors (D, C) of a text tower (`clip.zero_shot_head`), with a bias of
        0.
        """
        return cls(zero_shot.T.float().contiguous(), torch.zeros(zero_shot.shape[1]))


def batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of one epoch's batches, shuffled; none of a single example, which has no batch
    statistics. The order is that of PyTorch's loader.
    """
    loader: DataLoader[Tensor] = DataLoader(
        range(n),  # type: ignore[arg-type]  # a range is a dataset of indices
        batch_size=BATCH_SIZE,
        shuffle=True,
        generator=generator,
        collate_fn=torch.tensor,
    )
    return (batch for batch in loader if len(batch) > 1)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each trial's mean loss (T,) of logits (B, T, C) and labels (B,) or, for multilabel data, (B,
    C).
    """
    size, trials, n_classes = logits.shape
    if labels.ndim == 2:
        targets = labels.to(logits.dtype)[:, None].expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((0, 2))
    flat = F.cross_entropy(
        logits.reshape(size * trials, n_classes), labels.repeat_interleave(trials), reduction="none"
    )
    return flat.view(size, trials).mean(dim=0)


def record(
    curve: Curve, logits: Tensor, labels: Tensor, metric: str, *, keep_probabilities: bool
) -> None:
    """Add an epoch's logits (N, C) to the curve of its trial, or their failure."""
    if not torch.isfinite(logits).all():
        curve.failure = NOT_FINITE
        return
    # The benchmark takes softmax for multilabel data too.
    probabilities = logits.softmax(dim=-1).float().cpu().numpy()
    score = measure(metric, labels.cpu().numpy(), probabilities)
    if keep_probabilities:
        curve.last_probabilities = probabilities
        if not curve.scores or score > max(curve.scores):
            curve.best_probabilities = probabilities
    curve.scores.append(score)
