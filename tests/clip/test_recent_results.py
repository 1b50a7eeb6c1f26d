"""Recent results belong to the weights and inputs that gave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from react_pipeline.clip.classifier import prompt_vectors
from react_pipeline.clip.model import Clip, load
from react_pipeline.clip.recent_results import recent

PROMPTS = ["a red circle", "a square"]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The texts of each call of `Clip.encode_texts`."""
    calls: list[list[str]] = []
    own = Clip.encode_texts

    def encode(clip: Clip, texts: list[str]) -> Tensor:
        calls.append(list(texts))
        return own(clip, texts)

    monkeypatch.setattr(Clip, "encode_texts", encode)
    return calls


def test_equal_prompts_of_equal_text_towers_are_encoded_once(
    tiny_checkpoint: Path, encoded: list[list[str]]
) -> None:
    clip, again = load(tiny_checkpoint), load(tiny_checkpoint)
    with torch.no_grad():
        for name, weight in again.model.named_parameters():
            if name.startswith("visual.") or name == "logit_scale":
                weight.add_(1)
    vectors = prompt_vectors(clip, PROMPTS)
    assert torch.equal(prompt_vectors(again, PROMPTS), vectors)
    assert encoded == [PROMPTS]
    assert torch.equal(vectors, clip.encode_texts(PROMPTS))


def change_weight(clip: Clip) -> list[str]:
    with torch.no_grad():
        clip.model.token_embedding.weight.add_(1e-3)
    return PROMPTS


def change_architecture(clip: Clip) -> list[str]:
    clip.model_cfg["quick_gelu"] = not clip.model_cfg.get("quick_gelu")
    return PROMPTS


@pytest.mark.parametrize(
    "changed", [change_weight, change_architecture, lambda clip: list(reversed(PROMPTS))]
)
def test_another_model_or_prompt_gets_a_result_of_its_own(
    tiny_checkpoint: Path, encoded: list[list[str]], changed: Callable[[Clip], list[str]]
) -> None:
    clip = load(tiny_checkpoint)
    prompt_vectors(clip, PROMPTS)
    other = changed(clip)
    assert torch.equal(prompt_vectors(clip, other), clip.encode_texts(other))
    assert encoded == [PROMPTS, other, other]


def test_a_changed_result_changes_no_other(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    expected = clip.encode_texts(PROMPTS)
    for _ in range(3):
        vectors = prompt_vectors(clip, PROMPTS)
        assert torch.equal(vectors, expected)
        vectors.zero_()


def test_the_oldest_results_leave_first(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.clip.recent_results.MOST_BYTES", 2 * 4)
    clip = load(tiny_checkpoint)
    made: list[bytes] = []

    def ask(inputs: bytes) -> Tensor:
        return recent(clip, "image", inputs, lambda: (made.append(inputs), torch.zeros(1))[1])

    for inputs in (b"a", b"b", b"a", b"c", b"a", b"b"):
        ask(inputs)
    assert made == [b"a", b"b", b"c", b"b"]


def test_nothing_is_kept_of_a_gpu() -> None:
    results = iter([torch.zeros(1), torch.ones(1)])
    clip: Any = SimpleNamespace(device="cuda")
    assert [float(recent(clip, "text", b"", lambda: next(results))) for _ in range(2)] == [0, 1]
