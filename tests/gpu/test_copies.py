"""Half precision on a GPU without copies between precisions, counted on fake tensors; and the same
values.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from open_clip.transformer import LayerNorm, QuickGELU
from support.pretended_gpu import pretended_gpu
from torch import nn

from benchmarks.copies import count
from react_pipeline.clip import GatedBlock


@pytest.mark.parametrize("name", ["an embedded image", "an embedded caption", "an image of a step"])
def test_norms_and_activations_copy_nothing(name: str) -> None:
    alone, ours = (count(name, ours=ours) for ours in (False, True))
    assert ours.bytes["_to_copy"] < 0.15 * alone.bytes["_to_copy"]
    assert ours.bytes.total() < 0.6 * alone.bytes.total()
    assert ours.kernels < alone.kernels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [QuickGELU(), nn.GELU()], ids=["quick", "exact"])
def test_a_block_in_half_precision_is_that_of_fp32(
    dtype: torch.dtype, activation: nn.Module
) -> None:
    torch.manual_seed(0)
    block = GatedBlock(LayerNorm(32), activation, 2)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randn(4, 5, 32)

    def gradients(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        moved = block.to(device)
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            out = moved(tokens.to(device, dtype))
        weights = [one for one in moved.parameters() if one.dim()]
        found = torch.autograd.grad((out.float() * tokens.to(device)).sum(), weights)
        return [one.detach().cpu().float().flatten() for one in (out, *found)]

    exact = gradients("cpu", torch.float32)
    with pretended_gpu():
        for ours, theirs in zip(gradients("cuda", dtype), exact, strict=True):
            assert functional.cosine_similarity(ours, theirs, dim=0) > 0.999
