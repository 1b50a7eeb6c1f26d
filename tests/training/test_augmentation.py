"""Augmentation: here only that decoding processes can be given it; what it does to images is tested in customize."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support_drawings import draw
from support_pairs import DrawnPairs
from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose, PILToTensor

from react_pipeline.clip.model import load
from react_pipeline.clip.pixels import Pixels
from react_pipeline.store.errors import InputError
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.data import PREFETCHED, Views


@pytest.mark.parametrize("kind", ["none", "mild", "timm"])
def test_augmentation_can_be_sent_to_a_spawned_process(kind: str, tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint, torch.device("cpu"))
    augment = augmentation(kind, Pixels(clip.preprocess), clip.preprocess_cfg)
    sent = pickle.loads(pickle.dumps(augment))  # noqa: S301 - our own bytes
    image = Image.new("RGB", (40, 30), "red")
    assert torch.equal(sent(image, 7), augment(image, 7))


def test_pixels_and_their_normalisation_are_the_models_own_preprocessing(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    pixels = Pixels(clip.preprocess)
    image = draw("circle", "red", seed=3)
    assert pixels(image).dtype == torch.uint8
    assert torch.equal(pixels.normalised(pixels(image)[None])[0], clip.preprocess(image))


def test_a_preprocessing_that_ends_otherwise_is_refused() -> None:
    with pytest.raises(TypeError, match="normalisation"):
        Pixels(Compose([PILToTensor(), PILToTensor()]))


def test_erased_images_are_those_of_timm_with_its_noise_cut_at_black_and_white(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    config = {**clip.preprocess_cfg, "size": 32}
    ours = augmentation("timm", Pixels(clip.preprocess), config)
    theirs = create_transform(
        (3, 32, 32), True, scale=(0.08, 1), ratio=(3 / 4, 4 / 3), interpolation="bicubic", hflip=0.5, color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel", mean=config["mean"], std=config["std"],
    )  # fmt: skip
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    image, erased = draw("circle", "red", seed=3), 0
    for seed in range(40):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - timm's generator
        torch.manual_seed(seed)
        wanted = (theirs(image) * std + mean) * 255
        erased += bool((wanted - wanted.round()).abs().max() > 0.01)
        assert (ours(image, seed).float() - wanted.clamp(0, 255)).abs().max() <= 0.51
    assert erased > 3


def test_workers_that_shared_memory_has_no_room_for_are_refused_with_what_they_need(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = Pixels(load(tiny_checkpoint).preprocess)
    views = Views(DrawnPairs([("circle", "red")]), pixels, augmentation("none", pixels, {}), 0)
    needed = 3 * 32 * 32 * 512 * 4 * PREFETCHED * 8
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    views.require_shared_memory(512, 0, 8)
    with pytest.raises(InputError, match=r"customization\.workers.*96 MiB"):
        views.require_shared_memory(512, 4, 8)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=needed))
    views.require_shared_memory(512, 4, 8)
