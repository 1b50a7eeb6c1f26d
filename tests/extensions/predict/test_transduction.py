"""Transduction: its formulas and what must not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import normalize

from react_pipeline.clip import ClassHead
from react_pipeline.extensions.predict import transduction
from react_pipeline.extensions.predict.transduction import affinity, transduce

CLASSES, DIMENSION = 5, 64


def clusters(per_class: int) -> tuple[Tensor, ClassHead]:
    """Unit vectors around orthogonal centres, and a zero-shot head that is as sure as CLIP's: class
    0 attracts most pictures of class 1.
    """
    rng = torch.Generator().manual_seed(0)
    axes = torch.eye(DIMENSION)
    ids = torch.arange(CLASSES).repeat_interleave(per_class)
    noise = 0.02 * torch.randn(len(ids), DIMENSION, generator=rng)
    texts = axes[:CLASSES].clone()
    texts[0] = 0.3 * axes[0] + 0.7 * axes[1]
    texts[1] = 0.7 * axes[1] + 0.3 * axes[4]
    texts = normalize(0.05 * texts + axes[CLASSES], dim=1)
    return normalize(axes[ids] + noise, dim=1), ClassHead(texts.T)


def test_scores_follow_the_formulas_of_the_paper() -> None:
    x, head = clusters(per_class=10)
    head = ClassHead(head.vectors, torch.linspace(-0.01, 0.01, CLASSES))
    scores = transduce(x.numpy(), head)
    x = x.double()

    def density(means: Tensor, variance: Tensor) -> Tensor:
        return torch.stack([Normal(mean, variance.sqrt()).log_prob(x).sum(1) for mean in means], 1)

    y = torch.stack([(100 * (row @ head.vectors.double() + head.bias)).softmax(0) for row in x])
    w = torch.zeros(len(x), len(x), dtype=torch.float64)
    for i, row in enumerate(x @ x.T):
        for j in row.argsort(descending=True)[1:4]:  # the first is the picture itself
            w[i, j] = max(0.0, row[j])
    means = torch.stack([x[y[:, c].argsort(descending=True)[:8]].mean(0) for c in range(CLASSES)])
    variance = torch.full((DIMENSION,), 1 / DIMENSION, dtype=torch.float64)
    z = y
    for _ in range(10):
        of_means = density(means, variance)
        for _ in range(5):
            z = y * ((of_means + 50 / (2 * 3) * (w.T @ z + w @ z)) / 50).exp()
            z = z / z.sum(1, keepdim=True)
        means = torch.stack([(z[:, [c]] * x).sum(0) / z[:, c].sum() for c in range(CLASSES)])
        variance = sum(
            ((z[:, [c]] * (x - means[c]) ** 2).sum(0) for c in range(CLASSES)), torch.zeros(())
        ) / len(x)
    torch.testing.assert_close((100 * scores).softmax(1).double(), z, atol=1e-3, rtol=0)


def test_neither_order_nor_repetition_matters() -> None:
    x, head = clusters(per_class=12)
    x = torch.cat([x, x[3:20], x[3:8]])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    scores = transduce(x.numpy(), head)
    assert torch.equal(transduce(x[order].numpy(), head), scores[order])
    assert torch.equal(scores[60:77], scores[3:20])
    assert torch.equal(scores[:60], transduce(x[:60].numpy(), head))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_pictures_are_judged_too(count: int) -> None:
    x, head = clusters(per_class=1)
    scores = transduce(x[:count].numpy(), head)
    assert scores.shape == (count, CLASSES) and torch.isfinite(scores).all()
    if count == 1:
        assert torch.equal(scores.argmax(1), head.scores(x[:1]).argmax(1))


def test_affinity_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clusters(per_class=6)
    whole = affinity(x).to_dense()
    monkeypatch.setattr(transduction, "COMPARED_AT_ONCE", 100)
    torch.testing.assert_close(affinity(x).to_dense(), whole)
    assert not whole.diagonal().any() and torch.equal(whole, whole.T)
