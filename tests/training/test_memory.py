"""Memory of a step: counted on few pairs it is that of many; a batch beyond it is refused."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from support.methods import attach, set_trainable

from react_pipeline.clip.model import load
from react_pipeline.settings import TrainingConfig
from react_pipeline.store.errors import InputError
from react_pipeline.training.image_encoder import ImageEncoder, image_tower
from react_pipeline.training.memory import COUNTED, require_memory, saved_bytes
from react_pipeline.training.world import World


@pytest.mark.parametrize("method", ["gated-image", "locked-text"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_of_many_images_follow_from_those_of_few(
    tiny_checkpoint: Path, method: str, precision: str
) -> None:
    model = load(tiny_checkpoint).model
    attach(model, method, 2)
    set_trainable(model, method)
    training = TrainingConfig(precision=precision)
    encoder = ImageEncoder(model, image_tower(model, training, "cpu"), training, World())
    images = torch.rand(64, 3, 32, 32)
    each = saved_bytes(lambda count: encoder(images[:count]), 9)
    # What autograd keeps of a batch, by the processor's allocator: all that is not given back.
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile:
        features = encoder(images)
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    assert features.requires_grad and each > 0
    assert 64 * each == pytest.approx(held, rel=0.15)
    assert saved_bytes(lambda count: encoder(images[: count * 8]), 9) == pytest.approx(
        8 * each, rel=0.01
    )


def test_a_batch_beyond_the_memory_is_refused_with_what_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("react_pipeline.training.memory.machine_memory_bytes", lambda: 1_000)
    assert require_memory(10, 100, "cpu") == "about 10 pairs fit at once, of 100 bytes each"
    with pytest.raises(InputError, match=r"batch_size: 11 pairs.* 1,100 bytes.*about 10 pairs fit"):
        require_memory(11, 100, "cpu")
    assert saved_bytes(lambda count: torch.zeros(COUNTED * count), 9) == 0
