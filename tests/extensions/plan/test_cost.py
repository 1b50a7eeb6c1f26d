"""What an encoder and a training cost, measured with real steps that leave the model as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.methods import model_method

from react_pipeline.clip.model import load
from react_pipeline.extensions.plan.encoder_cost import measure_encoding, measure_step
from react_pipeline.settings.training import TrainingConfig

TRAINING = TrainingConfig(last_k_layers=1)


@pytest.mark.parametrize(
    ("method", "splits", "has_texts"),
    [
        ("gated-image", True, False),
        ("gated-both", True, True),
        ("lora-both", True, True),
        ("locked-text", False, False),
        ("locked-image", True, True),
        ("full", False, True),
    ],
)
def test_a_method_pays_for_what_it_trains(
    tiny_checkpoint: Path, method: str, splits: bool, has_texts: bool
) -> None:
    clip = load(tiny_checkpoint)
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    cost = measure_step(clip, 1.0, model_method(method), TRAINING, "fp32")
    assert (cost.splits, cost.frozen > 0, cost.has_texts) == (splits, splits, has_texts)
    assert cost.pair > 0
    after = clip.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_encoding_takes_time_on_one_thread(tiny_checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    cost = measure_encoding(load(tiny_checkpoint), 1.0, "fp32")
    assert min(cost.prepare, cost.image, cost.text) > 0
    assert torch.get_num_threads() == threads
