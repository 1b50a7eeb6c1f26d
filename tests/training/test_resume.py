"""States of a training: a step after reading one is the step that would have come, whatever the
memory layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from react_pipeline.store import Scratch, TrainingError
from react_pipeline.training import World, save_state
from react_pipeline.training.resume import TrainingState, resume

LOG = ['{"step": 0}\n']


def state_of(model: nn.Module, **fields: Any) -> TrainingState:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    given = {"batch_size": 25, "log": [*LOG], **fields}
    return TrainingState(dict(model.named_parameters()), optimizer, scaler, **given)


def fresh(layout: torch.memory_format) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=layout)


def step(model: nn.Module, state: TrainingState, number: int) -> None:
    state.optimizer.zero_grad()
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
    (model(images) ** 2).sum().backward()
    state.optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_state_resumes_as_if_it_had_never_been_written(
    tmp_path: Path, layout: torch.memory_format
) -> None:
    model = fresh(layout)
    state = state_of(model, skipped=(4, 2))
    for number in range(3):
        step(model, state, number)
    state.step, state.seconds = 3, 3.0
    save_state(state.content(), Scratch(tmp_path))
    step(model, state, 3)

    again = fresh(layout)
    resumed = state_of(again, log=[])
    resume(resumed, Scratch(tmp_path), World())
    assert (resumed.step, resumed.seconds, resumed.log, resumed.skipped) == (3, 3.0, LOG, (4, 2))
    step(again, resumed, 3)
    assert again.weight.stride() == model.weight.stride()
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_a_process_without_the_state_of_the_others_ends(tmp_path: Path) -> None:
    state = state_of(fresh(torch.contiguous_format))

    class Second(World):
        def broadcast(self, _: Any) -> Any:
            return tmp_path / "step-000000003"  # which is not there for this machine

    with pytest.raises(TrainingError, match="shared by all machines"):
        resume(state, Scratch(tmp_path), Second(rank=1, size=2))
