"""Texts of a training: those that come with the pairs, those that are kept over a kill, and nothing
computed that no text needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from support.methods import weighted_gradients
from support.pairs import DrawnPairs
from support.training import OwnCustomization

from react_pipeline.clip import Clip, load, recompute_activations, text_parameters
from react_pipeline.corpus import CollectedPairs
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.training import kept as module
from react_pipeline.training.kept import TrainingTexts

DOMAIN = DomainConfig(slug="shapes", classes=("circle", "square"), templates=("a {}",))
PAIRS = DrawnPairs([("circle", "red"), ("square", "red"), ("circle", "red"), ("square", "blue")])


def texts_of(clip: Clip, folder: Path) -> TrainingTexts:
    own: Any = OwnCustomization(PAIRS, DOMAIN, TrainingConfig(), Scratch(folder))
    return TrainingTexts(clip, own)


@pytest.mark.parametrize("again", [False, True])
def test_a_trained_text_tower_gets_its_own_gradients_from_each_text_once(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        recompute_activations(clip.model)
    texts = texts_of(clip, tmp_path)
    encode = Mock(wraps=module.encode_text)
    monkeypatch.setattr(module, "encode_text", encode)
    order = torch.tensor([0, 1, 2, 0, 1])
    vectors = texts.vectors(texts.caption_ids(order))
    tokens = clip.tokenizer([PAIRS.texts[number] for number in order])
    ((_, encoded), _) = encode.call_args
    assert encoded.shape == (2, int(tokens.argmax(dim=1).max()) + 1)  # without padding
    own = clip.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(vectors, own, atol=1e-5, rtol=1e-5)
    trained = text_parameters(clip.model)
    gradients = (weighted_gradients(one, trained) for one in (vectors, own))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_vectors_of_captions_come_with_the_pairs(
    retrieved_project: Project, tmp_path: Path
) -> None:
    store = retrieved_project.store
    pairs = CollectedPairs(store.current("retrieved_set", "shapes"))
    clip = load(store.current("base_checkpoint", "all").path)
    clip.model.requires_grad_(False)
    own: Any = OwnCustomization(
        pairs, DOMAIN, TrainingConfig(), Scratch(tmp_path / "kept"), project=retrieved_project
    )
    texts = TrainingTexts(clip, own)
    ids = texts.caption_ids(torch.arange(len(pairs)))
    captions = [pair.caption for pair in pairs]
    torch.testing.assert_close(texts.vectors(ids), clip.encode_texts(captions), atol=2e-3, rtol=0)
    assert len(set(ids.tolist())) == len(set(captions)) < len(pairs)
    assert not [*(tmp_path / "kept").glob("*")]


def test_vectors_are_made_in_parts_and_kept_in_one_file(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That they outlive a kill is in `faults/test_training.py`.
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    clip.model.requires_grad_(False)
    first = texts_of(clip, tmp_path)
    wanted = clip.encode_texts([*dict.fromkeys(PAIRS.texts)])
    torch.testing.assert_close(first.vectors(torch.arange(3)), wanted, atol=1e-3, rtol=0)
    (kept,) = tmp_path.glob(f"{module.TEXT_VECTORS}*")
    assert kept.stat().st_size == 3 * 2 * clip.dimension
    assert first.class_ids(torch.arange(4)).tolist() == [0, 1, 0, 1]
