"""open_clip's families of models by method: every cell of the table in docs/methods.md is tried on
random weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import RESNET, VIT, attach, set_trainable, small_clip, some_images

from react_pipeline.store import InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
METHODS = ("gated-image", "lora-image", "locked-text", "full", "locked-image")
FAMILIES: dict[str, dict[str, Any]] = {
    "CLIP, OpenCLIP, DFN, MetaCLIP": VIT,
    "SigLIP, SigLIP 2": {
        "timm_model_name": "test_vit",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    },
    "PE-Core": {
        "timm_model_name": "vit_pe_core_tiny_patch16_384",
        "timm_pool": "map",
        "image_size": 384,
    },
    "EVA-02": {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224},
    "ViTamin": {"timm_model_name": "vitamin_small_224", "timm_pool": "", "image_size": 224},
    "MobileCLIP2-B, -L-14": {"timm_model_name": "vit_base_mci_224", "image_size": 224},
    "MobileCLIP2-S0 to -S4": {"timm_model_name": "fastvit_mci0", "image_size": 256},
    "ConvNeXt": {"timm_model_name": "convnext_atto", "timm_pool": "", "image_size": 64},
    "ResNet": RESNET,
}
LARGE = {"ViTamin", "MobileCLIP2-B, -L-14"}


def build(vision_cfg: dict[str, Any]) -> Any:
    if "timm_model_name" not in vision_cfg:
        return small_clip(vision_cfg, dimension=64)
    timm = {"timm_model_pretrained": False, "timm_proj": "linear"}
    return small_clip({**timm, **vision_cfg}, dimension=64, custom=True)


@torch.no_grad()
def fits(vision_cfg: dict[str, Any], method: str) -> bool:
    """Whether a method trains something of such a model, which gives the same features at first."""
    model = build(vision_cfg)
    images = some_images(model, 1)
    model.requires_grad_(False)
    features = model.encode_image(images)
    try:
        attach(model, method, 2)
    except InputError as error:
        assert "method" in str(error) or "locked-text" in str(error)
        return False
    model.requires_grad_(False)
    assert torch.equal(model.encode_image(images), features)
    return set_trainable(model, method) > 0


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in FAMILIES],
)
def test_the_table_says_which_methods_fit(family: str) -> None:
    cells = ["yes" if fits(FAMILIES[family], method) else "no" for method in METHODS]
    assert f"| {family} | {' | '.join(cells)} |" in DOCUMENT.read_text(encoding="utf-8")
