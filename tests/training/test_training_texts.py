"""The texts of a batch: vectors and gradients are the model's own, and nothing is computed that no
text needs.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip.model import Clip, load
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.store.errors import TrainingError
from react_pipeline.training import texts as texts_module
from react_pipeline.training.texts import TrainingTexts
from react_pipeline.training.world import World

DOMAIN = DomainConfig(slug="shapes", classes=("circle", "square"), templates=("a {}",))
PAIRS = DrawnPairs([("circle", "red"), ("square", "red"), ("circle", "red"), ("square", "blue")])


def gradients(model: Any, vectors: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    # Weighted, so that no two texts pull alike.
    (vectors * torch.arange(1.0, vectors.numel() + 1).view_as(vectors)).sum().backward()
    return {
        name: value.grad.clone()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


def test_a_trained_text_tower_gets_its_own_gradients(tiny_checkpoint: Path, tmp_path: Path) -> None:
    clip = load(tiny_checkpoint)
    clip.model.requires_grad_(True)
    table = TrainingTexts(clip, PAIRS, DOMAIN, TrainingConfig(), World(), Scratch(tmp_path))
    positions = table.caption_ids(torch.tensor([0, 1, 2, 3, 1]))
    tokens = clip.tokenizer([PAIRS.texts[number] for number in (0, 1, 2, 3, 1)])
    vectors, own = table.vectors(positions), clip.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(vectors, own, atol=1e-5, rtol=1e-5)
    wanted, found = gradients(clip.model, own), gradients(clip.model, vectors)
    assert wanted.keys() == found.keys() and "token_embedding.weight" in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-4)


def test_a_text_tower_recomputes_activations_when_told(
    tiny_checkpoint: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    own, asked = texts_module.encode_text, []

    def encode(model: Any, tokens: Tensor, **options: Any) -> Tensor:
        asked.append((options, model.transformer.grad_checkpointing))
        return own(model, tokens, **options)

    monkeypatch.setattr(texts_module, "encode_text", encode)
    for again in (False, True):
        clip = load(tiny_checkpoint)
        training = TrainingConfig(activation_checkpointing=again)
        table = TrainingTexts(clip, PAIRS, DOMAIN, training, World(), Scratch(tmp_path))
        table.vectors(table.caption_ids(torch.tensor([0, 1])))
    assert asked == [({}, again) for again in (False, True)]


def test_equal_texts_are_encoded_once_without_padding(
    tiny_checkpoint: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    clip = load(tiny_checkpoint)
    table = TrainingTexts(clip, PAIRS, DOMAIN, TrainingConfig(), World(), Scratch(tmp_path))
    seen: list[Tensor] = []
    own = texts_module.encode_text
    monkeypatch.setattr(
        texts_module,
        "encode_text",
        lambda model, tokens, **_: (seen.append(tokens), own(model, tokens))[1],
    )
    with torch.no_grad():
        vectors = table.vectors(table.caption_ids(torch.tensor([2, 0, 1, 0])))
    assert vectors.shape == (4, clip.dimension)
    assert torch.equal(vectors[0], vectors[1]) and torch.equal(vectors[1], vectors[3])
    whole = clip.tokenizer(list(PAIRS.texts[:2]))
    assert seen[0].shape == (2, int((whole.argmax(dim=1) + 1).max()))
    assert seen[0].shape[1] < whole.shape[1]


def test_vectors_are_kept_in_one_file_and_reused_as_a_whole(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "AT_ONCE", 2)
    clip = load(tiny_checkpoint)
    clip.model.requires_grad_(False)
    encoded: list[list[str]] = []
    own = Clip.encode_texts
    monkeypatch.setattr(
        Clip, "encode_texts", lambda self, texts: (encoded.append(texts), own(self, texts))[1]
    )

    def vectors() -> Tensor:
        encoded.clear()
        training = TrainingConfig(class_prompt_fraction=0.5)
        table = TrainingTexts(clip, PAIRS, DOMAIN, training, World(), Scratch(tmp_path))
        return table.vectors(torch.arange(5))

    first = vectors()
    prompts = ["a circle", "a square"]
    torch.testing.assert_close(
        first, own(clip, [*dict.fromkeys(PAIRS.texts), *prompts]), atol=1e-3, rtol=0
    )
    (kept,) = tmp_path.glob(f"{texts_module.VECTORS}*")
    assert kept.stat().st_size == 5 * 2 * clip.dimension
    assert torch.equal(vectors(), first) and not encoded


def test_texts_that_do_not_fit_disk_are_refused_with_bytes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=10))
    with pytest.raises(TrainingError, match="larger disk"):
        TrainingTexts(
            load(tiny_checkpoint),
            PAIRS,
            DOMAIN,
            TrainingConfig(),
            World(),
            Scratch(tmp_path),
        )
