"""Text towers run without what no text needs, against the model's own forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.methods import require_close, small_clip, weighted_gradients
from torch import Tensor

from react_pipeline.clip import encode_text, text_blocks, text_lengths, text_parameters

LENGTH, VOCABULARY = 12, 64
END = VOCABULARY - 1
"""The largest id ends a text."""
TEXT = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 3}
CAUSAL: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "QuickGELU": {"quick_gelu": True},
    "LayerScale": {"text": {"ls_init_value": 0.3}},
    "tower apart": {"custom": True},
    "tower apart, biased projection": {"custom": True, "text": {"proj_bias": True}},
    "tower apart, no projection": {"custom": True, "text": {"proj_type": "none"}},
}
WHOLE: dict[str, dict[str, Any]] = {
    # As SigLIP's: every token sees every other, padding too.
    "SigLIP": {
        "custom": True,
        "text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "no mask": {"custom": True, "text": {"no_causal_mask": True}},
    "causal, last position": {"custom": True, "text": {"pool_type": "last"}},
    "CLIPA": {"text": {"no_causal_mask": True, "pool_type": "last"}},
    "class embedding": {"custom": True, "text": {"embed_cls": True}},
}


def build(options: dict[str, Any]) -> Any:
    return small_clip(**{**options, "text": {**TEXT, **options.get("text", {})}}, dimension=32)


def texts_of(*lengths: int) -> Tensor:
    """Token ids (N, L) of texts of so many, the end included, then zeros."""
    rng = torch.Generator().manual_seed(1)
    tokens = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, : length - 1] = torch.randint(1, END, (length - 1,), generator=rng)
        tokens[row, length - 1] = END
    return tokens


@pytest.mark.parametrize("lengths", [[2, 7, 3, 5], [LENGTH, 4]], ids=str)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_tower_needs_nothing_behind_the_end_of_text(name: str, lengths: list[int]) -> None:
    model = build(CAUSAL[name])
    tokens = texts_of(*lengths)
    assert text_lengths(model, tokens).tolist() == lengths
    trained = text_parameters(model)
    ours, theirs = encode_text(model, tokens[:, : max(lengths)]), model.encode_text(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    got, wanted = (weighted_gradients(one, trained) for one in (ours, theirs))
    require_close(got, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_where_padding_counts_every_column_stays(
    name: str,
) -> None:
    model = build(WHOLE[name])
    tokens = texts_of(2, 7, 3, 5)
    assert text_lengths(model, tokens).tolist() == [LENGTH] * 4 and not text_blocks(model)
    with torch.inference_mode():
        assert torch.equal(encode_text(model, tokens), model.encode_text(tokens))
        # Why they stay: padding is part of the vector.
        other = tokens.clone()
        other[0, -1] = 5
        same = torch.allclose(*map(model.encode_text, (tokens, other)), atol=1e-6)
        assert not same or name == "causal, last position"
