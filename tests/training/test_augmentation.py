"""Augmentation, and the images of a batch on their way through decoding processes."""

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
from react_pipeline.training.augmentation import DECODED, augmentation
from react_pipeline.training.data import PREFETCHED, TrainingBatches, Views
from react_pipeline.training.world import World


@pytest.fixture(params=["mild", "timm"])
def augmented(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Views:
    """Views of two images, augmented."""
    clip = load(tiny_checkpoint)
    pixels = Pixels(clip.preprocess)
    augment = augmentation(request.param, pixels, clip.preprocess_cfg)
    return Views(DrawnPairs([("circle", "red"), ("square", "blue")]), pixels, augment)


def test_a_view_is_fixed_by_its_number_in_every_process(augmented: Views) -> None:
    views = augmented
    plain = Views(views.pairs, views.pixels)
    sent = pickle.loads(pickle.dumps(views.augment))  # noqa: S301 - our own bytes
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = views[0, 2]
    assert torch.equal(torch.rand(2), expected), "the generators of the process are left alone"
    assert torch.equal(first, Views(views.pairs, views.pixels, sent)[0, 2])
    assert first.shape == views[0, 0].shape and first.dtype == torch.uint8
    assert not any(torch.equal(first, views[draw]) for draw in ((0, 1), (1, 2), (0, 0)))
    assert torch.equal(views[0, 0], plain[0, 0])
    # Of 300 draws some ask for the least bits that Pillow lets a colour keep.
    assert all(views[0, view].dtype == torch.uint8 for view in range(1, 300))


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
    # Compared below: a level more or less becomes many behind it.
    theirs.transforms[0] = ours.transform._cropped
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


def cropping(augment: Any) -> Any:
    """The part of `timm` that crops."""
    return augment.transform


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_part_is_that_of_timm_up_to_rounding(tiny_checkpoint: Path, interpolation: str) -> None:
    clip = load(tiny_checkpoint)
    config = {**clip.preprocess_cfg, "interpolation": interpolation}
    ours = cropping(augmentation("timm", Pixels(clip.preprocess), config))
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
    config = {**clip.preprocess_cfg, "size": 64}
    ours = cropping(augmentation("timm", Pixels(clip.preprocess), config))
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


def test_workers_are_no_more_than_shared_memory_has_room_for(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = Pixels(load(tiny_checkpoint).preprocess)
    views = Views(DrawnPairs([("circle", "red")] * 8), pixels)
    started = []

    def batches_of(_views: Views, _parts: Any, workers: int, *_: Any) -> Any:
        started.append(workers)
        return iter(())

    monkeypatch.setattr(Views, "batches", batches_of)
    needed = 3 * 32 * 32 * 4 * PREFETCHED * 2
    training = TrainingConfig(workers=3, processes=2, augmentation="none")
    batches = TrainingBatches(torch.arange(8), 4, views, None, training, World())
    for free in (3 * needed, 3 * needed - 1, 0):
        monkeypatch.setattr(
            "shutil.disk_usage", lambda _path, free=free: SimpleNamespace(free=free)
        )
        assert not list(batches.stream(range(2)))
    assert started == [3, 2, 0]
    assert caplog.text.count("--shm-size") == 2
