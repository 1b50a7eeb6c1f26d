"""The functions of attention and blocks against the modules whose weights they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from react_pipeline.clip.gated import feed_forward
from react_pipeline.clip.tower import host_block

B, T, W, H = 3, 5, 32, 4
BLOCKS: dict[str, dict[str, Any]] = {
    "GELU": {},
    "QuickGELU": {"act_layer": QuickGELU},
    "LayerScale": {"ls_init_value": 0.3},
    "MLP ratio 3": {"mlp_ratio": 3.0},
}


@pytest.fixture(params=BLOCKS, ids=str)
def block(request: pytest.FixtureRequest) -> ResidualAttentionBlock:
    return perturbed(ResidualAttentionBlock(W, H, batch_first=True, **BLOCKS[request.param]))


def perturbed(module: Any) -> Any:
    """With biases, norms and layer scales that are no longer all 0 or all 1: none of them may be
    left out unseen.
    """
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
    return module.eval()


def tokens() -> Tensor:
    return torch.randn(B, T, W, generator=torch.Generator().manual_seed(1))


def require_equal(
    module: nn.Module, ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]
) -> None:
    """Outputs, and gradients by the input and by every parameter, agree."""
    results = []
    for function in (ours, theirs):
        x = tokens().requires_grad_()
        output = function(x)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        results.append(
            [output, *torch.autograd.grad((output * weights).sum(), [x, *module.parameters()])]
        )
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_quick_gelu_has_the_gradient_of_its_formula() -> None:
    mlp = perturbed(ResidualAttentionBlock(8, 2, act_layer=QuickGELU).mlp).double()
    torch.manual_seed(3)
    x = (3 * torch.randn(2, 3, 8, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: feed_forward(x, mlp), (x,))


def test_copies_mean_their_weights(block: ResidualAttentionBlock) -> None:
    plain = host_block(tokens(), block)
    casts = {
        id(parameter): parameter.detach() * 2
        for parameter in block.parameters()
        if parameter.ndim == 2
    }
    with torch.no_grad():
        doubled = host_block(tokens(), block, casts)
        for parameter in block.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
        torch.testing.assert_close(doubled, block(tokens()), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(doubled, plain)


@pytest.mark.parametrize("positions", [[0, 0, 0], [0, 2, 4], [4, 4, 4], [1, 0, 3]])
@pytest.mark.parametrize("causal", [False, True])
def test_one_token_sees_what_it_may(
    block: ResidualAttentionBlock, positions: list[int], causal: bool
) -> None:
    only, rows = torch.tensor(positions), torch.arange(B)
    mask = torch.full((T, T), float("-inf")).triu(1) if causal else None
    require_equal(
        block,
        lambda x: host_block(x, block, causal=causal, only=only)[:, 0],
        lambda x: block(x, attn_mask=mask)[rows, only],
    )
    require_equal(
        block, lambda x: host_block(x, block, causal=causal), lambda x: block(x, attn_mask=mask)
    )
