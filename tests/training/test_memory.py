"""Memory of a step: counted on few pairs it is that of many; a batch beyond it is refused."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.methods import attach, set_trainable

from react_pipeline.clip import Clip, encode_text, recompute_activations
from react_pipeline.settings import METHODS, TrainingConfig
from react_pipeline.store import InputError
from react_pipeline.training import ImageEncoder, ModelMethod, World
from react_pipeline.training.guards import require_memory
from react_pipeline.training.step import TrainingStep

FEW, MANY = 256, 320
"""Rows that outweigh the gradient of the vocabulary."""
TOLERANCE = {"fp32": 0.15, "bf16": 0.25}
"""Processors differ in what they convert for bf16."""
TRAINED = [n for n, one in METHODS.items() if isinstance(one, ModelMethod) and "-control" not in n]


def added_to_peak(run: Callable[[int], object]) -> float:
    """What each row adds to the most that the processor's allocator gives out at once."""

    def peak(rows: int) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            run(rows)
        events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        sizes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
        return max(accumulate(size for _, size in sizes))

    peak(FEW)  # what is made once
    gc.collect()
    gc.disable()  # what others left would be freed meanwhile
    try:
        return (peak(MANY) - peak(FEW)) / (MANY - FEW)
    finally:
        gc.enable()


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", TRAINED)
def test_bytes_of_many_pairs_follow_from_those_of_few(
    clip: Clip, method: str, precision: Any, again: bool
) -> None:
    model = clip.model
    attach(model, method, 2)
    set_trainable(model, method)
    if again:
        recompute_activations(model)
    training = TrainingConfig(precision=precision, activation_checkpointing=again)
    encoder = ImageEncoder(model, training, World())
    tokens = clip.tokenizer(["a red circle"]).repeat(MANY, 1)
    texts: Any = SimpleNamespace(
        caption_ids=torch.as_tensor, vectors=lambda rows: encode_text(model, tokens[rows])
    )
    state: Any = SimpleNamespace(
        trained={name: one for name, one in model.named_parameters() if one.requires_grad}
    )
    images = torch.rand(MANY, 3, 32, 32)

    def both_ways(rows: int) -> None:
        sides = [encoder(images[:rows].clone())]
        with encoder.autocast():
            sides.append(texts.vectors(torch.arange(rows)))
        for one in sides:
            if one.requires_grad:
                one.sum().backward()
        model.zero_grad(set_to_none=True)

    step = TrainingStep(encoder, texts, state, METHODS[method].loss)  # type: ignore[attr-defined]
    counted = step.pair_bytes(images[:4], torch.arange(4))
    assert counted == pytest.approx(added_to_peak(both_ways), rel=TOLERANCE[precision])
    assert all(one.grad is None for one in model.parameters())


def test_a_batch_beyond_the_memory_is_refused_with_what_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("react_pipeline.training.guards.free_bytes", lambda device: 1_200)
    assert require_memory(10, 100, 200, "cpu") == "about 10 pairs fit at once, of 100 bytes each"
    with pytest.raises(InputError, match=r"batch_size: 11 pairs.* 1,100 bytes.*about 10 pairs fit"):
        require_memory(11, 100, 200, "cpu")
