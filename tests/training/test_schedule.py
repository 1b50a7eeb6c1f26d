from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store.errors import RetrievalError
from react_pipeline.training import schedule
from react_pipeline.training.schedule import (
    MAX_LOG_SCALE,
    batch_at,
    fit_batch_size,
    learning_rate,
    max_log_scale,
    parameter_groups,
)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = TrainingConfig(learning_rate=1.0, warmup_steps=4, steps=12)
    rates = [learning_rate(step, training) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_epochs_and_share_of_warm_up_are_steps_of_whole_batches() -> None:
    training = TrainingConfig(epochs=32, warmup_steps=0.075, batch_size=4_096).in_steps(
        8_530_639, 4_096
    )
    assert (training.steps, training.warmup_steps, training.epochs) == (
        32 * 2_082,
        round(0.075 * 66_624),
        None,
    )
    assert TrainingConfig(epochs=0.5).in_steps(1_000, 100).steps == 5
    assert TrainingConfig(epochs=0.001).in_steps(1_000, 100).steps == 1
    assert TrainingConfig(steps=7, warmup_steps=3).in_steps(1_000, 100).warmup_steps == 3


def test_every_epoch_takes_each_pair_once_in_a_new_order() -> None:
    epochs = [
        torch.cat([batch_at(epoch * 5 + step, 10, 2, 0) for step in range(5)]) for epoch in range(2)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    assert batch_at(3, 10, 2, 0).tolist() == batch_at(3, 10, 2, 0).tolist()
    assert batch_at(3, 10, 2, 0).tolist() != batch_at(3, 10, 2, 1).tolist()
    assert len(batch_at(0, 3, 256, 0)) == 3
    # Near each other on the disk is not near each other in a batch.
    assert (
        len({position // schedule.RUN for position in batch_at(0, 100_000, 256, 0).tolist()}) > 80
    )


def test_runs_of_neighbours_stay_in_a_window_and_cover_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "RUN", 5)
    monkeypatch.setattr(schedule, "WINDOW", 20)
    batches = [batch_at(step, 103, 10, 3, "runs").tolist() for step in range(10)]
    taken = [position for batch in batches for position in batch]
    assert len(set(taken)) == 100
    for first in range(0, 100, 20):
        window = taken[first : first + 20]
        assert (
            len({position // 5 for position in window}) <= 6
        )  # four runs, or five with the odd one
        assert window != sorted(window)
    assert [batch_at(step, 103, 10, 3, "runs").tolist() for step in range(10, 20)] != batches
    assert sorted(position // 5 for position in taken[:20]) != sorted(
        position // 5 for position in range(20)
    )


def test_vectors_norms_biases_and_the_logit_scale_do_not_decay() -> None:
    model = nn.ModuleDict(
        {"ln_1": nn.LayerNorm(4), "fc": nn.Linear(4, 4), "frozen": nn.Linear(4, 4)}
    )
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(math.log(10))))
    model["frozen"].requires_grad_(False)
    decayed, plain = parameter_groups(model.named_parameters(), 0.1)
    assert decayed["params"] == [model["fc"].weight]
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 4  # type: ignore[arg-type]


def test_only_sigmoid_training_may_keep_scale_above_clips_limit() -> None:
    assert max_log_scale("infonce", 4.75) == MAX_LOG_SCALE
    assert max_log_scale("sigmoid", 4.75) == 4.75
    assert max_log_scale("sigmoid", 2.3) == MAX_LOG_SCALE


def test_one_pair_cannot_be_contrasted() -> None:
    with pytest.raises(RetrievalError, match="needs two"):
        fit_batch_size(TrainingConfig(), 1, 1)
    assert fit_batch_size(TrainingConfig(), 2, 1) == 2
