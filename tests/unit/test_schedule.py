from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from react_pipeline.schedule import batch_at, contrastive_loss, learning_rate, parameter_groups
from react_pipeline.training_config import TrainingConfig


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = TrainingConfig(learning_rate=1.0, warmup_steps=4, steps=12)
    rates = [learning_rate(step, training) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_every_epoch_takes_each_pair_once_in_a_new_order() -> None:
    epochs = [torch.cat([batch_at(epoch * 5 + step, 10, 2, 0) for step in range(5)]) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    assert batch_at(3, 10, 2, 0).tolist() == batch_at(3, 10, 2, 0).tolist()
    assert batch_at(3, 10, 2, 0).tolist() != batch_at(3, 10, 2, 1).tolist()
    assert len(batch_at(0, 3, 256, 0)) == 3


def vectors(seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_infonce_equals_open_clips() -> None:
    scale = torch.tensor(20.0)
    ours = contrastive_loss(vectors(0), vectors(1), scale)
    torch.testing.assert_close(ours, open_clip.ClipLoss()(vectors(0), vectors(1), scale))


def test_equal_captions_share_the_target() -> None:
    images, texts, scale = vectors(0), vectors(1), torch.tensor(5.0)
    texts[3] = texts[1]
    unique = torch.arange(6)
    torch.testing.assert_close(
        contrastive_loss(images, texts, scale, unique), contrastive_loss(images, texts, scale), atol=1e-6, rtol=1e-6
    )
    ids = torch.tensor([0, 1, 2, 1, 4, 5])
    log_rows = (scale * images @ texts.T).log_softmax(1)
    log_columns = (scale * images @ texts.T).log_softmax(0)
    total = 0.0
    for row in range(6):
        positives = [column for column in range(6) if ids[column] == ids[row]]
        total -= sum(log_rows[row, column].item() for column in positives) / len(positives)
        total -= sum(log_columns[column, row].item() for column in positives) / len(positives)
    assert contrastive_loss(images, texts, scale, ids).item() == pytest.approx(total / 12, rel=1e-5)


def test_vectors_norms_biases_and_the_logit_scale_do_not_decay() -> None:
    model = nn.ModuleDict({"ln_1": nn.LayerNorm(4), "fc": nn.Linear(4, 4), "frozen": nn.Linear(4, 4)})
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(math.log(10))))
    model["frozen"].requires_grad_(False)
    decayed, plain = parameter_groups(model.named_parameters(), 0.1)
    assert decayed["params"] == [model["fc"].weight]
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 4  # type: ignore[arg-type]
