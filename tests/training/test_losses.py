"""Losses against their definitions, written out pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from open_clip.loss import SigLipLoss
from torch import Tensor

from react_pipeline.training.losses import contrastive_loss

B, D = 7, 5
SCALE = torch.tensor(3.0, dtype=torch.float64)
CAPTIONS = torch.tensor([0, 1, 0, 2, 3, 4, 2])
CLASSES = torch.tensor([5, -1, 6, 5, -1, 6, 7])
NONE = torch.full((B,), -1)

Keep = Callable[[int, int], bool]


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    images, texts = functional.normalize(drawn, dim=-1)
    return images, texts


def same_caption(i: int, j: int) -> bool:
    return i == j or bool(CAPTIONS[i] == CAPTIONS[j])


def alike(i: int, j: int) -> bool:
    return same_caption(i, j) or bool(CLASSES[i] == CLASSES[j] and CLASSES[i] >= 0)


def by_definition(images: Tensor, texts: Tensor, positive: Keep, counted: Keep) -> float:
    """The mean of both directions; `positive` pairs share the target, `counted` ones make the
    denominator.
    """
    total = 0.0
    for queries, gallery in ((images, texts), (texts, images)):
        for i in range(B):
            logits = [
                float(SCALE) * float(sum(queries[i][d] * gallery[j][d] for d in range(D)))
                for j in range(B)
            ]
            denominator = sum(math.exp(logits[j]) for j in range(B) if counted(i, j))
            mine = [j for j in range(B) if positive(i, j)]
            total -= sum(logits[j] - math.log(denominator) for j in mine) / len(mine) / (2 * B)
    return total


def only_itself(i: int, j: int) -> bool:
    return i == j


def everything(_i: int, _j: int) -> bool:
    return True


def itself_and_the_unlike(i: int, j: int) -> bool:
    return i == j or not alike(i, j)


@pytest.mark.parametrize(
    ("kind", "positive", "counted"),
    [
        ("infonce", only_itself, everything),
        ("infonce-captions", same_caption, everything),
        ("infonce-masked", only_itself, itself_and_the_unlike),
        ("unicl", alike, everything),
    ],
)
def test_each_loss_is_its_definition(
    vectors: tuple[Tensor, Tensor], kind: str, positive: Keep, counted: Keep
) -> None:
    loss = contrastive_loss(*vectors, SCALE, CAPTIONS, CLASSES, kind)  # some have no class
    assert loss.item() == pytest.approx(by_definition(*vectors, positive, counted), rel=1e-10)


def test_the_sigmoid_loss_is_that_of_siglip(vectors: tuple[Tensor, Tensor]) -> None:
    bias = torch.tensor(-2.5, dtype=torch.float64, requires_grad=True)
    scale = SCALE.clone().requires_grad_()
    ours = contrastive_loss(*vectors, scale, CAPTIONS, CLASSES, "sigmoid", bias)
    theirs = SigLipLoss()(*vectors, scale, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(loss, (scale, bias)) for loss in (ours, theirs))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


def test_a_batch_of_one_class_has_nothing_to_push_away(vectors: tuple[Tensor, Tensor]) -> None:
    images, texts = vectors
    texts.requires_grad_()
    loss = contrastive_loss(images, texts, SCALE, torch.arange(B), 0 * NONE, "infonce-masked")
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, texts)
    assert torch.equal(gradient, torch.zeros_like(gradient))
