"""What a training costs: measured with real steps, which leave the model as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.methods import model_method

from react_pipeline.clip.model import load
from react_pipeline.extensions.plan.encoding_cost import EncodingCost
from react_pipeline.extensions.plan.step_cost import StepCost, head_step_seconds
from react_pipeline.settings.training import TrainingConfig

TRAINING = TrainingConfig(last_k_layers=1)


@pytest.mark.parametrize(
    ("method", "splits", "trains_images", "trains_texts"),
    [
        ("gated-image", True, True, False),
        ("gated-both", True, True, True),
        ("lora-image", True, True, False),
        ("lora-both", True, True, True),
        ("locked-text", False, True, False),
        ("locked-image", True, False, True),
        ("full", False, True, True),
    ],
)
def test_a_method_pays_for_what_it_trains(
    tiny_checkpoint: Path, method: str, splits: bool, trains_images: bool, trains_texts: bool
) -> None:
    clip = load(tiny_checkpoint)
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    cost = StepCost.measured(clip, model_method(method), TRAINING, "fp32")
    assert (cost.splits, cost.frozen > 0) == (splits, splits)
    assert (cost.image > 0, cost.text > 0) == (trains_images, trains_texts)
    after = clip.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_encoding_and_steps_of_a_head_take_time(tiny_checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    cost = EncodingCost.measured(load(tiny_checkpoint), "fp32")
    assert min(cost.prepare, cost.image, cost.text, cost.start) > 0
    assert head_step_seconds(512, 1_000, 256) > 4 * head_step_seconds(512, 100, 256) > 0
    assert torch.get_num_threads() == threads
