"""Texts of a training: kept over a kill, and nothing computed that no text needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import weighted_gradients
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip import Clip, load, text_parameters
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.training import World
from react_pipeline.training import kept as module
from react_pipeline.training.kept import TrainingTexts

DOMAIN = DomainConfig(slug="shapes", classes=("circle", "square"), templates=("a {}",))
PAIRS = DrawnPairs([("circle", "red"), ("square", "red"), ("circle", "red"), ("square", "blue")])


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


def texts_of(clip: Clip, folder: Path, **fields: Any) -> TrainingTexts:
    return TrainingTexts(clip, PAIRS, DOMAIN, TrainingConfig(**fields), World(), Scratch(folder))


@pytest.mark.parametrize("again", [False, True])
def test_a_trained_text_tower_gets_its_own_gradients(
    clip: Clip, tmp_path: Path, again: bool
) -> None:
    texts = texts_of(clip, tmp_path, activation_checkpointing=again)
    assert clip.model.transformer.grad_checkpointing == again
    order = torch.tensor([0, 1, 2, 3, 1])
    vectors = texts.vectors(texts.caption_ids(order))
    tokens = clip.tokenizer([PAIRS.texts[number] for number in order])
    own = clip.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(vectors, own, atol=1e-5, rtol=1e-5)
    trained = text_parameters(clip.model)
    found, wanted = (weighted_gradients(one, trained) for one in (vectors, own))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-4)


def test_equal_texts_are_encoded_once_without_padding(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts, seen, own = texts_of(clip, tmp_path), [], module.encode_text

    def encode(model: Any, tokens: Tensor) -> Tensor:
        seen.append(tokens.shape)
        return own(model, tokens)

    monkeypatch.setattr(module, "encode_text", encode)
    with torch.no_grad():
        vectors = texts.vectors(texts.caption_ids(torch.tensor([2, 0, 1, 0])))
    assert vectors.shape == (4, clip.dimension)
    assert torch.equal(vectors[0], vectors[1]) and torch.equal(vectors[1], vectors[3])
    longest = int((clip.tokenizer(list(PAIRS.texts[:2])).argmax(dim=1) + 1).max())
    assert seen == [(2, longest)] and longest < 77


def test_vectors_are_kept_in_one_file_and_reused_as_a_whole(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
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
