"""Augmentation: here only that decoding processes can be given it; what it does to images is tested in customize."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from react_pipeline.clip.model import load
from react_pipeline.training.augmentation import augmentation


@pytest.mark.parametrize("kind", ["none", "mild", "timm"])
def test_augmentation_can_be_sent_to_a_spawned_process(kind: str, tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint, torch.device("cpu"))
    augment = augmentation(kind, clip.preprocess, clip.preprocess_cfg)
    sent = pickle.loads(pickle.dumps(augment))  # noqa: S301 - our own bytes
    image = Image.new("RGB", (40, 30), "red")
    assert torch.equal(sent(image, 7), augment(image, 7))
