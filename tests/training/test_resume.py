"""States of a training: a step after reading one is the step that would have come, whatever the
memory layout. That a killed training ends as if it never was is in `faults/test_training.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from react_pipeline.store import Scratch, TrainingError
from react_pipeline.training import World, save_state
from react_pipeline.training.resume import TrainingState, resume


def fresh() -> tuple[nn.Module, TrainingState]:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return model, TrainingState(dict(model.named_parameters()), optimizer, scaler, 25)


def step(model: nn.Module, state: TrainingState, number: int) -> None:
    state.optimizer.zero_grad()
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
    (model(images) ** 2).sum().backward()
    state.optimizer.step()


def test_a_state_resumes_as_if_it_had_never_been_written(tmp_path: Path) -> None:
    model, state = fresh()
    for number in range(3):
        step(model, state, number)
    state.step, state.seconds, state.log, state.skipped = 3, 3.0, ["{}"], (4, 2)
    save_state(state.content(), Scratch(tmp_path))
    step(model, state, 3)

    again, resumed = fresh()
    resume(resumed, Scratch(tmp_path), World())
    assert (resumed.step, resumed.seconds, resumed.log, resumed.skipped) == (3, 3.0, ["{}"], (4, 2))
    step(again, resumed, 3)
    assert again.weight.stride() == model.weight.stride()
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_a_process_without_the_state_of_the_others_ends(tmp_path: Path) -> None:
    class Second(World):
        def broadcast(self, _: Any) -> Any:
            return tmp_path / "step-000000003"  # which is not there for this machine

    with pytest.raises(TrainingError, match="shared by all machines"):
        resume(Mock(), Scratch(tmp_path), Second(rank=1, size=2))
