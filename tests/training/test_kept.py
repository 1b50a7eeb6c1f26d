"""What is kept of images and texts: the same as computed ones, kept over a kill, and nothing
computed that no text needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.drawings import COLOURS, SHAPES
from support.methods import attach, set_trainable
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip import Pixels
from react_pipeline.clip.model import Clip, load
from react_pipeline.settings import TrainingConfig
from react_pipeline.settings.config import DomainConfig
from react_pipeline.store import Scratch
from react_pipeline.training import kept as module
from react_pipeline.training.data import Views
from react_pipeline.training.image_encoder import ImageEncoder, image_tower
from react_pipeline.training.kept import TrainingTexts, keep_tokens
from react_pipeline.training.world import World

DOMAIN = DomainConfig(slug="shapes", classes=("circle", "square"), templates=("a {}",))
PAIRS = DrawnPairs([("circle", "red"), ("square", "red"), ("circle", "red"), ("square", "blue")])


class Kept:
    """What is kept of the same images every time, and how many went through the frozen blocks."""

    def __init__(self, checkpoint: Path, directory: Path, method: str = "gated-image") -> None:
        clip = load(checkpoint)
        attach(clip.model, method, 1) if method == "gated-image" else None
        set_trainable(clip.model, method)
        self.clip = clip
        self.views = Views(
            DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS]),
            Pixels(clip.preprocess),
        )
        self.scratch = Scratch(directory)
        self.images = 0

    def encoder(self, **fields: Any) -> ImageEncoder:
        training = TrainingConfig(augmentation="none", **{"precision": "fp32", **fields})
        tower = image_tower(self.clip.model, training, "cpu")
        return ImageEncoder(self.clip.model, tower, training, World())

    def keep(self, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Tensor | None:
        self.images, own = 0, ImageEncoder.frozen

        def counting(encoder: ImageEncoder, images: Tensor) -> Tensor:
            self.images += len(images)
            return own(encoder, images)

        with monkeypatch.context() as patch:
            patch.setattr(ImageEncoder, "frozen", counting)
            return keep_tokens(self.encoder(**{"workers": 0, **fields}), self.views, self.scratch)

    def require_right(self, tokens: Tensor | None, **fields: Any) -> None:
        assert tokens is not None and len(tokens) == len(self.views.pairs)
        bf16 = tokens.dtype == torch.bfloat16
        for position in {0, len(tokens) // 2, len(tokens) - 1}:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                (wanted,) = self.encoder(**fields).frozen(
                    self.views.batch(torch.tensor([position]))
                )
            # In batches of another size a sum may be rounded another way: by one unit of bf16,
            # that is 2**-8 of the largest.
            close = {"atol": 0.1, "rtol": 0.01} if bf16 else {"atol": 1e-5, "rtol": 1e-5}
            torch.testing.assert_close(tokens[position], wanted.to(tokens.dtype), **close)


@pytest.mark.parametrize("method", ["gated-image", "locked-image"])
@pytest.mark.parametrize("fields", [{}, {"workers": 2}, {"precision": "bf16"}], ids=str)
def test_kept_is_what_is_computed(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    fields: dict[str, Any],
) -> None:
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 5)  # so that the last batch is a smaller one
    kept = Kept(tiny_checkpoint, tmp_path, method)
    tokens = kept.keep(monkeypatch, **fields)
    kept.require_right(tokens, **fields)
    assert tokens is not None and tokens.ndim == (3 if method == "gated-image" else 2)
    (path,) = tmp_path.glob(f"{module.TOKENS}-*")
    assert path.stat().st_size == tokens.nbytes


def test_a_kept_file_is_found_again_unless_of_another_form(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tiny_checkpoint, tmp_path)
    first = kept.keep(monkeypatch)
    assert first is not None and kept.images == 16 + 1  # one image tells the shape
    kept.require_right(kept.keep(monkeypatch, precision="bf16"), precision="bf16")
    assert kept.images == 17
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_DISK_FRACTION", 0)
        second = kept.keep(monkeypatch)
    assert second is not None and torch.equal(first, second) and kept.images == 1
    kept.views.pairs = PAIRS
    kept.require_right(kept.keep(monkeypatch))
    assert kept.images == 5


@pytest.mark.parametrize("fraction", [0, 1])
def test_what_changes_or_does_not_fit_the_disk_is_not_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraction: int
) -> None:
    monkeypatch.setattr(module, "MAX_DISK_FRACTION", fraction)
    kept = Kept(tiny_checkpoint, tmp_path)
    kept.views.augment = (lambda image, _seed: kept.views.pixels(image)) if fraction else None
    assert keep_tokens(kept.encoder(), kept.views, kept.scratch) is None
    assert list(tmp_path.iterdir()) == []


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
