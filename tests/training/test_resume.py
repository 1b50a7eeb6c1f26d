"""States of a training: a step after reading one is the step that would have come, whatever the memory layout."""

from __future__ import annotations

import errno
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from react_pipeline.training.resume import (
    Snapshot,
    StateWriter,
    TrainingState,
    link_state,
    load_newest_state,
    remove_states_after,
)


def state_of(model: nn.Module) -> TrainingState:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return TrainingState(dict(model.named_parameters()), optimizer, torch.amp.GradScaler("cpu", enabled=False))


def fresh(layout: torch.memory_format) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=layout)


def step(model: nn.Module, state: TrainingState, number: int) -> None:
    state.optimizer.zero_grad()
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
    (model(images) ** 2).sum().backward()
    state.optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_state_resumes_as_if_it_had_never_been_written(tmp_path: Path, layout: torch.memory_format) -> None:
    model = fresh(layout)
    state = state_of(model)
    for number in range(3):
        step(model, state, number)
    Snapshot.of(state, 3, 1.5).save(tmp_path, kept=1)
    step(model, state, 3)

    again = fresh(layout)
    resumed = state_of(again)
    assert load_newest_state(tmp_path, resumed, 3) == (3, 1.5)
    step(again, resumed, 3)
    assert again.weight.stride() == model.weight.stride()
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_was_skipped_is_remembered_and_a_state_of_other_batches_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    state.draws, state.skipped_steps, state.skipped_in_a_row = "of 25 pairs", 4, 2
    step(model, state, 0)
    Snapshot.of(state, 7, 0.0).save(tmp_path, kept=1)
    same = state_of(fresh(torch.contiguous_format))
    same.draws = state.draws
    assert load_newest_state(tmp_path, same, 9)[0] == 7
    assert (same.skipped_steps, same.skipped_in_a_row) == (4, 2)
    other = state_of(fresh(torch.contiguous_format))
    other.draws = "of 24 pairs"
    assert load_newest_state(tmp_path, other, 9) == (0, 0.0)
    assert not other.optimizer.state and other.skipped_steps == 0
    assert "its batches were of 25 pairs, and are of 24 pairs now" in caplog.text


@pytest.mark.parametrize("place", [-1, -40, 0.5, "seconds", "skipped"])
def test_a_state_with_a_flipped_bit_is_refused_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int | float | str
) -> None:  # FAULTS 58
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    for number in (1, 2):
        step(model, state, number)
        Snapshot.of(state, number, 0.5).save(tmp_path)
    newest = tmp_path / "step-000000002.safetensors"
    data = bytearray(newest.read_bytes())
    if isinstance(place, str):  # a digit of what is recorded beside the tensors
        place = next(at for at in range(data.index(place.encode()), len(data)) if chr(data[at]).isdigit())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    newest.write_bytes(data)
    again = fresh(torch.contiguous_format)
    assert load_newest_state(tmp_path, state_of(again), 2) == (1, 0.5)
    assert "cannot be resumed from" in caplog.text


def test_where_files_cannot_be_linked_the_state_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refused)
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    Snapshot.of(state, 1, 0.0).save(tmp_path, kept=1)
    link_state(tmp_path, 1, tmp_path / "probed")
    assert load_newest_state(tmp_path / "probed", state_of(fresh(torch.contiguous_format)), 1)[0] == 1


def test_a_state_beyond_the_log_is_not_gone_on_from_and_makes_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    for done in (2, 4, 6):
        Snapshot.of(state, done, float(done)).save(tmp_path, kept=3)
    assert load_newest_state(tmp_path, state_of(fresh(torch.contiguous_format)), 5) == (4, 4.0)
    assert "step-000000006.safetensors cannot be resumed from (the log holds 5 steps alone)" in caplog.text
    remove_states_after(4, tmp_path)
    Snapshot.of(state, 5, 5.0).save(tmp_path, kept=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005.safetensors"]


def test_a_linked_state_is_the_same_file_and_the_only_one_of_its_directory(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    for number in (1, 2):
        step(model, state, number)
        Snapshot.of(state, number, 0.0).save(tmp_path, kept=2)
        link_state(tmp_path, number, tmp_path / "probed")
    (linked,) = (tmp_path / "probed").iterdir()
    assert linked.samefile(tmp_path / linked.name) and linked.name == "step-000000002.safetensors"


def test_a_copy_is_written_while_the_training_goes_on_and_holds_what_was(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)
    weights = model.weight.detach().clone()
    gone_on = threading.Event()

    def write(snapshot: Snapshot) -> None:
        assert gone_on.wait(60)
        snapshot.save(tmp_path)

    with StateWriter() as writer:
        writer.write(partial(write, Snapshot.of(state, 1, 0.0)))
        step(model, state, 1)
        gone_on.set()
    assert not torch.equal(model.weight, weights)
    again = fresh(torch.contiguous_format)
    assert load_newest_state(tmp_path, state_of(again), 1)[0] == 1
    assert torch.equal(again.weight, weights)


def test_a_state_that_cannot_be_written_stops_the_training_and_leaves_the_one_before(tmp_path: Path) -> None:
    model = fresh(torch.contiguous_format)
    state = state_of(model)
    step(model, state, 0)

    def full(_snapshot: Snapshot) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), StateWriter() as writer:
        writer.write(partial(Snapshot.of(state, 1, 0.0).save, tmp_path))
        writer.write(partial(full, Snapshot.of(state, 2, 0.0)))
    assert load_newest_state(tmp_path, state_of(fresh(torch.contiguous_format)), 2)[0] == 1
