"""The released REACT checkpoints load strictly, with the activation and normalisation that
configuration gives them.

Names, shapes and counts are written out here from the published layout, not taken from the library.
The state dicts of the large models hold tensors on the `meta` device: names and shapes without the
gigabytes.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
from torch import nn

from react_pipeline.clip import Clip, from_open_clip, gated_layers
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class Architecture(NamedTuple):
    """Sizes of a CLIP, how many gated layers REACT gives it, and the published parameter counts."""

    patch: int
    width: int
    layers: int
    hidden: int
    text_width: int
    text_layers: int
    dimension: int
    gated: int
    parameters: int = 0
    gated_parameters: int = 0


ARCHITECTURES = {
    "ViT-B-32": Architecture(32, 768, 12, 3072, 512, 12, 512, 6, 193_804_557, 42_527_244),
    "ViT-B-16": Architecture(16, 768, 12, 3072, 512, 12, 512, 6, 192_147_981, 42_527_244),
    "ViT-L-14": Architecture(14, 1024, 24, 4096, 768, 12, 768, 6, 503_193_869, 75_577_356),
    "ViT-bigG-14": Architecture(14, 1664, 48, 8192, 1280, 32, 1280, 12, 2_938_547_737, 398_980_632),
}
Shapes = dict[str, tuple[int, ...]]


def block_shapes(name: str, width: int, hidden: int) -> Shapes:
    """The twelve tensors of a transformer block."""
    parts = {
        "ln_1.": (width,),
        "attn.in_proj_": (3 * width, width),
        "attn.out_proj.": (width, width),
        "ln_2.": (width,),
        "mlp.c_fc.": (hidden, width),
        "mlp.c_proj.": (width, hidden),
    }
    weights = {f"{name}.{part}weight": shape for part, shape in parts.items()}
    return weights | {f"{name}.{part}bias": shape[:1] for part, shape in parts.items()}


def released_shapes(architecture: str, *, gated: bool) -> Shapes:
    """Every tensor of a released state dict: CLIP's own names, and 14 more for each gated layer."""
    sizes = ARCHITECTURES[architecture]
    width, text_width = sizes.width, sizes.text_width
    shapes: Shapes = {
        "positional_embedding": (77, text_width),
        "text_projection": (text_width, sizes.dimension),
        "logit_scale": (),
        "token_embedding.weight": (49408, text_width),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((224 // sizes.patch) ** 2 + 1, width),
        "visual.proj": (width, sizes.dimension),
        "visual.conv1.weight": (width, 3, sizes.patch, sizes.patch),
    }
    norms = {"ln_final": text_width, "visual.ln_pre": width, "visual.ln_post": width}
    shapes |= {f"{norm}.{one}": (n,) for norm, n in norms.items() for one in ("weight", "bias")}
    for layer in range(sizes.text_layers):
        shapes |= block_shapes(f"transformer.resblocks.{layer}", text_width, 4 * text_width)
    for layer in range(sizes.layers):
        name = f"visual.transformer.resblocks.{layer}"
        shapes |= block_shapes(name, width, sizes.hidden)
        if gated and layer >= sizes.layers - sizes.gated:
            # The MLP of a gated block is four times as wide as the tower, in bigG too, whose host's
            # is not.
            shapes |= block_shapes(f"{name}.gated_attn_block", width, 4 * width)
            shapes |= {f"{name}.gated_attn_block.alpha_{gate}": () for gate in ("attn", "dense")}
    return shapes


def without_memory(shapes: Shapes) -> dict[str, Any]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_without_memory(weights: dict[str, Any], path: Path, **encoder: Any) -> Clip:
    """Load through the library's front door, on a device that holds no values."""
    torch.save(weights, path)
    with torch.device("meta"):
        return from_open_clip(EncoderConfig(pretrained=str(path), **encoder), "meta")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


RELEASED = [
    # (file, configuration of the architecture, QuickGELU, mean and std of 0.5); those trained on
    # LAION-2B are like their namesakes.
    ("clip-vit-base-32-locked-text", "ViT-B-32", True, False),
    ("clip-vit-base-32-gated-image", "react_ViT-B-32", True, False),
    ("openclip-vit-base-32-locked-text", "ViT-B-32", False, False),
    ("openclip-vit-base-32-gated-image", "react_ViT-B-32", False, False),
    ("clip-vit-base-16-locked-text", "ViT-B-16", True, False),
    ("clip-vit-base-16-gated-image", "react_ViT-B-16", True, False),
    ("clip-vit-large-14-gated-image", "react_ViT-L-14", True, False),
    ("openclip-vit-large-14-gated-image", "react_ViT-L-14", False, True),
    ("openclip-vit-bigG-14-gated-image-laion2b", "react_ViT-bigG-14", False, False),
]


@pytest.mark.parametrize(
    ("file", "name", "quick_gelu", "half"), RELEASED, ids=[row[0] for row in RELEASED]
)
def test_every_released_checkpoint_loads_strictly(
    tmp_path: Path, file: str, name: str, quick_gelu: bool, half: bool
) -> None:
    architecture, gated = name.removeprefix("react_"), name.startswith("react_")
    sizes = ARCHITECTURES[architecture]
    weights = without_memory(released_shapes(architecture, gated=gated))
    if gated:  # as a distributed training saves them
        weights = {"state_dict": {f"module.{key}": value for key, value in weights.items()}}
    clip = load_without_memory(
        weights,
        tmp_path / f"{file}.pt",
        model=name,
        quick_gelu=quick_gelu,
        **({"mean": HALF, "std": HALF} if half else {}),
    )
    layers = gated_layers(clip.model)
    assert list(layers) == (list(range(sizes.layers - sizes.gated, sizes.layers)) if gated else [])
    counted = sum(map(parameters, layers.values()))
    assert counted == (sizes.gated_parameters if gated else 0)
    assert parameters(clip.model) == sizes.parameters - (0 if gated else sizes.gated_parameters)
    wanted = open_clip.transformer.QuickGELU if quick_gelu else nn.GELU
    towers = (one.transformer.resblocks for one in (clip.model.visual, clip.model))
    assert {type(block.mlp.gelu) for block in chain(*towers, layers.values())} == {wanted}
    assert tuple(clip.preprocess_cfg["mean"]) == (HALF if half else OPENAI_MEAN)
    assert tuple(clip.preprocess_cfg["std"]) == (HALF if half else OPENAI_STD)


GATE = "visual.transformer.resblocks.7.gated_attn_block.alpha_attn"
MATRIX = "visual.transformer.resblocks.7.gated_attn_block.mlp.c_fc.weight"


def test_keys_that_do_not_fit_are_each_named_with_the_file(tmp_path: Path) -> None:  # FAULTS 25
    shapes = released_shapes("ViT-B-32", gated=True)
    del shapes[GATE]
    shapes |= {"visual.stranger": (3,), MATRIX: (3072, 769)}
    with pytest.raises(InputError) as error:
        load_without_memory(without_memory(shapes), tmp_path / "odd.pt", model="react_ViT-B-32")
    for words in (str(tmp_path / "odd.pt"), GATE, "visual.stranger", f"mismatch for {MATRIX}"):
        assert words in str(error.value)
