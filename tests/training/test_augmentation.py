"""Augmentation: here only that decoding processes can be given it; what it does to images is tested
in customize.
"""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.drawings import draw
from support.pairs import DrawnPairs
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform

from react_pipeline.clip import Pixels
from react_pipeline.clip.model import load
from react_pipeline.corpus.images import decode_image
from react_pipeline.settings import TrainingConfig
from react_pipeline.store.errors import InputError
from react_pipeline.training.augmentation import DECODED, augmentation
from react_pipeline.training.data import PREFETCHED, Views


@pytest.mark.parametrize("kind", ["mild", "timm"])
def test_augmentation_can_be_sent_to_a_spawned_process(kind: str, tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint, torch.device("cpu"))
    augment = augmentation(kind, Pixels(clip.preprocess), clip.preprocess_cfg)
    sent = pickle.loads(pickle.dumps(augment))  # noqa: S301 - our own bytes
    image = Image.new("RGB", (40, 30), "red")
    assert torch.equal(sent(image, 7), augment(image, 7))


def test_pixels_are_those_of_the_models_own_preprocessing(
    tiny_checkpoint: Path,
) -> None:
    clip = load(tiny_checkpoint)
    pixels = Pixels(clip.preprocess)
    image = draw("circle", "red", seed=3)
    assert pixels(image).dtype == torch.uint8
    assert torch.equal(pixels.normalised(pixels(image)[None])[0], clip.preprocess(image))


def test_erased_images_are_those_of_timm(
    tiny_checkpoint: Path,
) -> None:
    clip = load(tiny_checkpoint)
    config = {**clip.preprocess_cfg, "size": 32}
    ours = augmentation("timm", Pixels(clip.preprocess), config)
    theirs = create_transform(
        (3, 32, 32), True, scale=(0.08, 1), ratio=(3 / 4, 4 / 3), interpolation="bicubic", hflip=0.5, color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel", mean=config["mean"], std=config["std"],
    )  # fmt: skip
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    theirs.transforms[0] = (
        ours._cropped
    )  # compared below: a level more or less becomes many behind it
    image, erased = draw("circle", "red", seed=3), 0
    for seed in range(40):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        wanted = (theirs(image) * std + mean) * 255
        erased += bool((wanted - wanted.round()).abs().max() > 0.01)
        assert (ours(image, seed).float() - wanted.clamp(0, 255)).abs().max() <= 0.51
    assert erased > 3


def jpeg_of(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def scene(width: int, height: int) -> Image.Image:
    """Coloured waves of several lengths, and an edge."""
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(x / 9 + y / 31) + np.sin(y / 5) * (x > y),
        np.sin(x / 40 - y / 60),
        np.cos(x * y / 9_000),
    ]
    return Image.fromarray((127 + 40 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_part_is_that_of_timm_up_to_rounding(tiny_checkpoint: Path, interpolation: str) -> None:
    clip = load(tiny_checkpoint)
    ours: Any = augmentation(
        "timm", Pixels(clip.preprocess), {**clip.preprocess_cfg, "interpolation": interpolation}
    )
    theirs = RandomResizedCropAndInterpolation((32, 32), (0.08, 1), interpolation=interpolation)
    for seed in range(30):
        random.seed(seed)
        wanted = np.asarray(theirs(scene(90, 70)), np.float64)
        random.seed(seed)
        assert np.abs(np.asarray(ours._cropped(scene(90, 70))) - wanted).mean() < 0.3


@pytest.mark.parametrize("size", [(1024, 768), (1021, 515)])
def test_a_large_jpeg_is_decoded_small_where_enough_remains(
    tiny_checkpoint: Path, size: tuple[int, int]
) -> None:
    clip = load(tiny_checkpoint)
    ours: Any = augmentation("timm", Pixels(clip.preprocess), {**clip.preprocess_cfg, "size": 64})
    data, decoded_at = jpeg_of(scene(*size)), set()
    for seed in range(30):
        parts = []
        for lazy in (True, False):
            image = decode_image(data, 1 << 30, lazy=lazy)
            random.seed(seed)
            top, left, height, width = ours._crop.get_params(
                image, ours._crop.scale, ours._crop.ratio
            )
            random.seed(seed)
            parts.append(np.asarray(ours._cropped(image), np.float64))
            fraction = size[0] / image.width
            if lazy:
                decoded_at.add(round(fraction))
                assert fraction == pytest.approx(round(fraction), rel=0.01)
                assert min(width, height) / fraction >= DECODED * 64 * 0.99 or fraction == 1
            else:
                assert image.size == size
        # A part begins at a whole pixel of what is decoded: half a pixel of it is a quarter of one
        # here.
        assert np.abs(parts[0] - parts[1]).mean() < 6
    assert max(decoded_at) > 1


def test_what_is_no_upright_rgb_jpeg_is_decoded_at_once(tiny_checkpoint: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode_image(jpeg_of(scene(80, 40), exif=turned), 1 << 20, lazy=True).size == (40, 80)
    png = io.BytesIO()
    scene(80, 40).save(png, "PNG")
    for data in (
        jpeg_of(scene(80, 40), exif=turned),
        jpeg_of(scene(80, 40).convert("CMYK")),
        png.getvalue(),
    ):
        image = decode_image(data, 1 << 20, lazy=True)
        before = image.size
        image.draft("RGB", (5, 5))
        assert (image.mode, image.size) == ("RGB", before)
        assert np.array_equal(np.asarray(image), np.asarray(decode_image(data, 1 << 20)))


def test_workers_beyond_shared_memory_are_refused_with_sizes(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = Pixels(load(tiny_checkpoint).preprocess)
    views = Views(DrawnPairs([("circle", "red")]), pixels)
    needed = 3 * 32 * 32 * 512 * 4 * PREFETCHED * 8
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    processes = {"processes": 8}
    four = TrainingConfig(workers=4, **processes)
    assert views.fitting_workers(512, TrainingConfig(workers=0, **processes)) == 0
    with pytest.raises(InputError, match=r"customization\.workers.*96 MiB"):
        views.fitting_workers(512, four)
    monkeypatch.setattr("joblib.cpu_count", lambda: 64)
    assert views.fitting_workers(512, TrainingConfig(**processes)) == 3
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=needed))
    assert views.fitting_workers(512, four) == 4
