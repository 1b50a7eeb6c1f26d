from __future__ import annotations

import pytest
import torch

from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, RetrievalError
from react_pipeline.training.schedule import (
    MAX_LOG_SCALE,
    batch_at,
    fit_batch_size,
    learning_rate,
    max_log_scale,
)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = TrainingConfig(learning_rate=1.0, warmup_steps=4, steps=12)
    rates = [learning_rate(step, training) for step in (0, 3, 4, 8, 12)]
    assert rates == pytest.approx([0.25, 1, 1, 0.5, 0])


def test_a_batch_has_as_many_pairs_in_each_process() -> None:
    assert fit_batch_size(TrainingConfig(batch_size=64), 41, 2) == 40


def test_epochs_and_share_of_warm_up_are_steps_of_whole_batches() -> None:
    training = TrainingConfig(epochs=32, warmup_steps=0.075).in_steps(8_530_639, 4_096)
    assert (training.steps, training.warmup_steps) == (32 * 2_082, round(0.075 * 66_624))
    assert training.epochs is None
    for epochs, steps in (0.5, 5), (0.001, 1):
        assert TrainingConfig(epochs=epochs).in_steps(1_000, 100).steps == steps
    assert TrainingConfig(steps=7, warmup_steps=3).in_steps(1_000, 100).warmup_steps == 3


def test_every_epoch_takes_each_pair_once_in_a_new_order() -> None:
    one, two = (
        torch.cat([batch_at(step, 10, 2, 0) for step in steps]).tolist()
        for steps in (range(5), range(5, 10))
    )
    assert sorted(one) == sorted(two) == list(range(10)) and one != two
    assert torch.equal(batch_at(3, 10, 2, 0), batch_at(3, 10, 2, 0))
    assert not torch.equal(batch_at(3, 10, 2, 0), batch_at(3, 10, 2, 1))


def test_only_sigmoid_training_may_keep_scale_above_clips_limit() -> None:
    assert max_log_scale("infonce", 4.75) == MAX_LOG_SCALE
    assert max_log_scale("sigmoid", 4.75) == 4.75
    assert max_log_scale("sigmoid", 2.3) == MAX_LOG_SCALE


@pytest.mark.parametrize(
    ("pairs", "size", "processes", "error", "text"),
    [
        (1, 256, 1, RetrievalError, "needs two"),
        (100, 8, 3, InputError, "does not divide among 3"),
        (40, 64, 32, RetrievalError, "too few for 32 processes"),
    ],
)
def test_a_batch_that_suits_no_pairs_or_processes_is_refused(
    pairs: int, size: int, processes: int, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        fit_batch_size(TrainingConfig(batch_size=size), pairs, processes)
