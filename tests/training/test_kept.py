"""Texts of a training: kept over a kill, and nothing computed that no text needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip.model import Clip, load
from react_pipeline.settings import TrainingConfig
from react_pipeline.settings.config import DomainConfig
from react_pipeline.store import Scratch
from react_pipeline.training import kept as module
from react_pipeline.training.kept import TrainingTexts
from react_pipeline.training.world import World

DOMAIN = DomainConfig(slug="shapes", classes=("circle", "square"), templates=("a {}",))
PAIRS = DrawnPairs([("circle", "red"), ("square", "red"), ("circle", "red"), ("square", "blue")])


def gradients(model: Any, vectors: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    # Weighted, so that no two texts pull alike.
    (vectors * torch.arange(1.0, vectors.numel() + 1).view_as(vectors)).sum().backward()
    named = model.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


def texts_of(clip: Clip, folder: Path, **fields: Any) -> TrainingTexts:
    return TrainingTexts(clip, PAIRS, DOMAIN, TrainingConfig(**fields), World(), Scratch(folder))


@pytest.mark.parametrize("again", [False, True])
def test_a_trained_text_tower_gets_its_own_gradients(
    tiny_checkpoint: Path, tmp_path: Path, again: bool
) -> None:
    clip = load(tiny_checkpoint)
    texts = texts_of(clip, tmp_path, activation_checkpointing=again)
    assert clip.model.transformer.grad_checkpointing == again
    captions = texts.caption_ids(torch.tensor([0, 1, 2, 3, 1]))
    tokens = clip.tokenizer([PAIRS.texts[number] for number in (0, 1, 2, 3, 1)])
    vectors, own = texts.vectors(captions), clip.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(vectors, own, atol=1e-5, rtol=1e-5)
    wanted, found = gradients(clip.model, own), gradients(clip.model, vectors)
    assert wanted.keys() == found.keys() and "token_embedding.weight" in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-4)


def test_equal_texts_are_encoded_once_without_padding(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = load(tiny_checkpoint)
    texts, seen, own = texts_of(clip, tmp_path), [], module.encode_text
    monkeypatch.setattr(
        module,
        "encode_text",
        lambda model, tokens, **_: (seen.append(tokens), own(model, tokens))[1],
    )
    with torch.no_grad():
        vectors = texts.vectors(texts.caption_ids(torch.tensor([2, 0, 1, 0])))
    assert vectors.shape == (4, clip.dimension)
    assert torch.equal(vectors[0], vectors[1]) and torch.equal(vectors[1], vectors[3])
    whole = clip.tokenizer(list(PAIRS.texts[:2]))
    assert seen[0].shape == (2, int((whole.argmax(dim=1) + 1).max()))
    assert seen[0].shape[1] < whole.shape[1]


def test_vectors_are_kept_in_one_file_and_reused_as_a_whole(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    clip = load(tiny_checkpoint)
    clip.model.requires_grad_(False)
    first = texts_of(clip, tmp_path)
    wanted = clip.encode_texts([*dict.fromkeys(PAIRS.texts)])
    torch.testing.assert_close(first.vectors(torch.arange(3)), wanted, atol=1e-3, rtol=0)
    (kept,) = tmp_path.glob(f"{module.TEXT_VECTORS}*")
    assert kept.stat().st_size == 3 * 2 * clip.dimension
    monkeypatch.delattr(Clip, "encode_texts")
    again = texts_of(clip, tmp_path)
    assert torch.equal(again.vectors(torch.arange(3)), first.vectors(torch.arange(3)))
    assert first.class_ids(torch.arange(4)).tolist() == [0, 1, 0, 1]
