"""States of a training: a step after reading one is the step that would have come, whatever the
memory layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from react_pipeline.store import Scratch
from react_pipeline.store.errors import StoreWriteError
from react_pipeline.training.resume import (
    Resumed,
    TrainingState,
    resume,
    save_state,
    states_in,
)
from react_pipeline.training.world import World

LOG = '{"step": 0}\n'


def save(state: TrainingState, step: int, seconds: float, folder: Path) -> None:
    save_state(state.content(step, seconds, LOG), Scratch(folder))


def resumed_from(folder: Path, state: TrainingState) -> Resumed:
    return resume(state, Scratch(folder), World())


def state_of(model: nn.Module) -> TrainingState:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return TrainingState(
        dict(model.named_parameters()), optimizer, torch.amp.GradScaler("cpu", enabled=False)
    )


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
    state = state_of(model)
    for number in range(3):
        step(model, state, number)
    save(state, 3, 1.5, tmp_path)
    step(model, state, 3)

    again = fresh(layout)
    resumed = state_of(again)
    assert resumed_from(tmp_path, resumed) == (3, 1.5, LOG)
    step(again, resumed, 3)
    assert again.weight.stride() == model.weight.stride()
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_skipped_pairs_are_remembered_and_other_batches_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    state.draws, state.skipped_steps, state.skipped_in_a_row = "of 25 pairs", 4, 2
    step(model, state, 0)
    save(state, 7, 0.0, tmp_path)
    same = state_of(fresh(torch.contiguous_format))
    same.draws = state.draws
    assert resumed_from(tmp_path, same).step == 7
    assert (same.skipped_steps, same.skipped_in_a_row) == (4, 2)
    other = state_of(fresh(torch.contiguous_format))
    other.draws = "of 24 pairs"
    assert resumed_from(tmp_path, other) == (0, 0.0, "")
    assert not other.optimizer.state and other.skipped_steps == 0
    assert "its batches were of 25 pairs, and are of 24 pairs now" in caplog.text


@pytest.mark.parametrize("name", ["state.pt", "sha256"])
@pytest.mark.parametrize("place", [-1, -40, 0.5])
def test_a_flipped_bit_falls_back_to_the_state_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, place: float
) -> None:  # FAULTS 58
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    for number in (1, 2):
        step(model, state, number)
        save(state, number, 0.5, tmp_path)
    newest = tmp_path / "step-000000002" / name
    data = bytearray(newest.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    newest.write_bytes(data)
    again = fresh(torch.contiguous_format)
    assert resumed_from(tmp_path, state_of(again)) == (1, 0.5, LOG)
    assert "cannot be resumed from" in caplog.text


def test_a_state_of_other_parameters_is_not_used(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    save(state, 1, 0.0, tmp_path)
    wider = nn.Conv2d(3, 5, 3)
    weights = wider.weight.detach().clone()
    assert resumed_from(tmp_path, state_of(wider)) == (0, 0.0, "")
    assert torch.equal(wider.weight, weights)


def test_a_state_after_the_resumed_one_makes_way(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    for done in (4, 6):
        save(state, done, float(done), tmp_path)
    (tmp_path / "step-000000006" / "sha256").write_text("damaged")
    assert resumed_from(tmp_path, state).step == 4
    save(state, 5, 5.0, tmp_path)
    assert [path.name for path in states_in(Scratch(tmp_path))] == [
        "step-000000004",
        "step-000000005",
    ]


def test_the_two_newest_states_stay(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    for number in range(1, 7):
        save(state, number, 0.0, tmp_path)
    names = ["step-000000005", "step-000000006"]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == names


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(fresh(torch.contiguous_format))

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StoreWriteError, match="bytes are needed"):
        save(state, 1, 0.0, tmp_path)
    assert not states_in(Scratch(tmp_path))
