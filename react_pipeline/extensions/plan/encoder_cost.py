"""What a CLIP costs: its operations and bytes, counted without computing, and processor seconds,
measured.

Does not belong here: what of a model a step runs (`encoding_cost`, `step_cost`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from open_clip import get_model_config
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from react_pipeline.clip import CONFIG_FILE, GATED_PREFIX, build, read_config
from react_pipeline.settings import EncoderConfig, encoders

IMAGE_OPERATIONS, TEXT_OPERATIONS = 2 * 4.409e9, 2 * 2.980e9
"""Floating-point operations of a forward pass of ViT-B/32."""

ROUNDS, ROUND_SECONDS = 3, 0.2


def core_seconds(work: Callable[[int], object], most: int) -> float:
    """Processor seconds of one core for one of many; other processes on the machine change it
    little.

    Args:
        work: Does so many at once. It is called with 1, which also chooses kernels, then with as
            many as fit `ROUND_SECONDS`, `ROUNDS` times, of which the fastest counts.
        most: At most so many.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # random weights may give many, which are slow

    def timed(count: int) -> float:
        began = time.process_time()
        work(count)
        return (time.process_time() - began) / count

    try:
        timed(1)
        once = timed(1)
        if (count := min(most, int(ROUND_SECONDS / max(once, 1e-6)))) <= 1:
            return once
        return min(timed(count) for _ in range(ROUNDS))
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class EncoderCost:
    """What a CLIP costs: its width, operations of a forward pass of one image and one caption,
    bytes of its weights.
    """

    dimension: int
    image: float
    text: float
    weights_bytes: float

    @classmethod
    def of(cls, model_cfg: dict[str, Any], folder: Path | None = None) -> Self:
        """Count an architecture of open_clip on torch's meta device, which computes nothing.

        A text tower of transformers counts as open_clip's own of the size that its configuration in
        `folder` says, else as ViT-B/32's. What cannot be built or run there counts as ViT-B/32,
        such as image towers of an old timm.
        """
        dimension = model_cfg["embed_dim"]
        text_cfg = _own_text_tower(model_cfg["text_cfg"], folder)
        try:
            with torch.device("meta"):
                clip = build({**model_cfg, "text_cfg": text_cfg}, {})
            pixels = clip.preprocess(Image.new("RGB", (8, 8)))
            tokens = clip.tokenizer(["a"])
            with FlopCounterMode(display=False) as image:
                clip.model.encode_image(pixels[None].to("meta"))
            with FlopCounterMode(display=False) as text:
                clip.model.encode_text(tokens.to("meta"))
        except Exception:  # whatever an architecture raises where tensors have no values
            return cls(dimension, IMAGE_OPERATIONS, TEXT_OPERATIONS, 4 * 151e6)
        weights_bytes = 4.0 * sum(parameter.numel() for parameter in clip.model.parameters())
        return cls(dimension, image.get_total_flops(), text.get_total_flops(), weights_bytes)


def architecture_of(
    encoder: EncoderConfig, base: Path | None
) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """open_clip's configuration of an encoder, and the folder of its text tower; ViT-B/32 where
    only weights would say.

    Args:
        base: It as published, if it is.
    """
    for folder in (encoder.pretrained and Path(encoder.pretrained), base):
        if folder and (folder / CONFIG_FILE).is_file():
            return *read_config(folder), folder
    if built := encoders().get(encoder.model):
        model_cfg, preprocess_cfg, tokenizer = built.architecture()
        return model_cfg, preprocess_cfg, tokenizer.parent
    return architecture_named(encoder.model.removeprefix(GATED_PREFIX)), {}, None


def architecture_named(name: str) -> dict[str, Any]:
    """The configuration that open_clip has under a name; that of ViT-B/32 if it has none."""
    return get_model_config(name) or architecture_named("ViT-B-32")


def _own_text_tower(text_cfg: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Without what is read from the Hub."""
    own = {
        name: value
        for name, value in text_cfg.items()
        if not name.startswith(("hf_", "tokenizer_"))
    }
    name = text_cfg.get("hf_model_name")
    if name and folder is not None and (folder / name / "config.json").is_file():
        from transformers import AutoConfig

        theirs = AutoConfig.from_pretrained(folder / name)
        own |= {"width": theirs.hidden_size, "heads": theirs.num_attention_heads}
        own |= {"layers": theirs.num_hidden_layers, "vocab_size": theirs.vocab_size}
    return own
