"""Losses against their definitions, written out pair by pair."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor
from torch.nn.functional import normalize

from react_pipeline.training import contrastive_loss

B, D = 7, 5
SCALE = torch.tensor(3.0, dtype=torch.float64)
CAPTIONS = torch.tensor([0, 1, 0, 2, 3, 4, 2])
CLASSES = torch.tensor([5, -1, 6, 5, -1, 6, 7])

SAME = CAPTIONS[:, None] == CAPTIONS
ALIKE = SAME | (CLASSES[:, None] == CLASSES) & (CLASSES >= 0)
"""Pairs of equal caption, and those of equal caption or class; some have no class."""


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    return tuple(normalize(drawn, dim=-1))


def by_definition(images: Tensor, texts: Tensor, positive: Tensor) -> float:
    """The mean of both directions; `positive` pairs share the target."""
    total = 0.0
    for queries, gallery in ((images, texts), (texts, images)):
        exponentials = (SCALE * queries @ gallery.T).exp()
        for row, mine in zip(exponentials, positive, strict=True):
            total -= float((row[mine] / row.sum()).log().mean()) / (2 * B)
    return total


@pytest.mark.parametrize(
    ("kind", "positive"),
    [("infonce", torch.eye(B).bool()), ("infonce-captions", SAME), ("unicl", ALIKE)],
)
def test_each_loss_is_its_definition(
    vectors: tuple[Tensor, Tensor], kind: str, positive: Tensor
) -> None:
    loss = contrastive_loss(*vectors, SCALE, CAPTIONS, CLASSES, kind)
    assert loss.item() == pytest.approx(by_definition(*vectors, positive), rel=1e-10)


def test_the_sigmoid_loss_is_that_of_siglip(vectors: tuple[Tensor, Tensor]) -> None:
    bias = torch.tensor(-2.5, dtype=torch.float64, requires_grad=True)
    scale = SCALE.clone().requires_grad_()
    ours = contrastive_loss(*vectors, scale, CAPTIONS, CLASSES, "sigmoid", bias)
    theirs = SigLipLoss()(*vectors, scale, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(loss, (scale, bias)) for loss in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
