"""The parts that make our encoder faster than the bare forward pass, switched on one after the
other.

With all parts on it computes what `react_pipeline.embedding.encoder.Encoder` does, which the last
row is. Nothing is measured here. Shapes: B images, N texts, L token ids of a text, T tokens of an
image, W width, D embedding dimension.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.published import Take
from react_pipeline.clip import Clip
from react_pipeline.clip.attention import host_block
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import CPU_IMAGES, Encoder
from react_pipeline.embedding.encoder import CPU_TOKENS, parts_of_like_length

BARE = "bare forward pass"
CUT = "captions cut behind the last end of text"
SORTED = f"captions by length, {CPU_TOKENS} token ids at once"
LAYOUT = "attention laid out on (B, T, W)"
ONE_TOKEN = "one token alone in the last blocks"  # noqa: S105 - a token of a transformer
SPLIT = f"{CPU_IMAGES} images at once"
ONCE = "equal captions once"
BF16 = "bf16 (autocast), matrices held in bf16"
PARTS = (CUT, SORTED, LAYOUT, ONE_TOKEN, SPLIT)
"""Those that are built here; the others are what `Encoder` adds."""


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W), normalised, and token ids (B, L), in memory."""

    images: Tensor
    tokens: Tensor

    @classmethod
    def read(cls, shards: Path, clip: Clip) -> list[Batch]:
        """A batch of each shard."""
        batches = []
        for path in sorted(shards.glob("*.tar")):
            images, texts = [], []
            with tarfile.open(path) as tar:
                for member in tar:
                    data = tar.extractfile(member).read()  # type: ignore[union-attr] # all are files
                    if member.name.endswith(".jpg"):
                        images.append(clip.preprocess(decode_image(data, 10**7)))
                    else:
                        texts.append(data.decode())
            batches.append(cls(torch.stack(images), clip.tokenizer(texts)))
        return batches


def part_takes(clip: Clip, batch: Batch) -> dict[str, Take]:
    """Ways to encode the batch, by the part that each adds."""
    takes = {BARE: _take(clip.model.encode_image, clip.model.encode_text, batch)}
    for count, part in enumerate(PARTS, 1):
        on = frozenset(PARTS[:count])
        takes[f"+ {part}"] = _take(
            lambda images, on=on: _images(clip.model.visual, images, on),
            lambda tokens, on=on: _texts(clip.model, tokens, on),
            batch,
        )
    for part, precision in ((ONCE, "fp32"), (BF16, "bf16")):
        encoder = Encoder(clip, precision)
        takes[f"+ {part}"] = _take(encoder.images, encoder.texts, batch)
    return takes


def _take(
    images: Callable[[Tensor], Tensor], texts: Callable[[Tensor], Tensor], batch: Batch
) -> Take:
    def take(_step: int) -> float:
        with torch.inference_mode():
            return float(
                functional.normalize(images(batch.images), dim=-1)[0, 0]
                + functional.normalize(texts(batch.tokens), dim=-1)[0, 0]
            )

    return take


def _images(visual: Any, images: Tensor, on: frozenset[str]) -> Tensor:
    """Image features (B, D)."""
    if LAYOUT not in on:
        return visual(images)
    features = []
    for part in images.split(CPU_IMAGES if SPLIT in on else len(images)):
        x = visual._embeds(part)
        *blocks, final = visual.transformer.resblocks
        for block in blocks:
            x = host_block(x, block)
        x = host_block(
            x, final, only=torch.zeros(len(x), dtype=torch.long) if ONE_TOKEN in on else None
        )
        features.append(visual._pool(x)[0] @ visual.proj)
    return torch.cat(features)


def _texts(model: Any, tokens: Tensor, on: frozenset[str]) -> Tensor:
    """Text features (N, D)."""
    features = torch.empty(len(tokens), model.text_projection.shape[1])
    for chosen in _chosen(tokens, on):
        ends = tokens[chosen].argmax(dim=1)
        length = int(ends.max()) + 1
        x = model.token_embedding(tokens[chosen, :length]) + model.positional_embedding[:length]
        *blocks, final = model.transformer.resblocks
        for block in blocks:
            x = (
                host_block(x, block, causal=True)
                if LAYOUT in on
                else block(x, attn_mask=model.attn_mask[:length, :length])
            )
        if ONE_TOKEN in on:
            x = host_block(x, final, causal=True, only=ends)[:, 0]
        else:
            x = (
                host_block(x, final, causal=True)
                if LAYOUT in on
                else final(x, attn_mask=model.attn_mask[:length, :length])
            )
            x = x[torch.arange(len(x)), ends]
        features[chosen] = model.ln_final(x) @ model.text_projection
    return features


def _chosen(tokens: Tensor, on: frozenset[str]) -> Iterator[Tensor]:
    """Positions of the texts of each pass."""
    lengths = tokens.argmax(dim=1) + 1
    if SORTED not in on:
        yield torch.arange(len(tokens))
        return
    order = lengths.argsort(stable=True)
    for part in parts_of_like_length(lengths[order].tolist(), CPU_TOKENS):
        yield order[part]
