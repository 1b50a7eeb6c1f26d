"""Augmentation, and the images of a batch on their way through decoding processes."""

from __future__ import annotations

import io
import pickle
import random
from dataclasses import replace
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

from react_pipeline.clip import Clip, Pixels
from react_pipeline.corpus import decode_image
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import Views, World
from react_pipeline.training.augmentation import DECODED, Augmentation
from react_pipeline.training.data import PREFETCHED, TrainingBatches


def augmenting(clip: Clip, **fields: Any) -> Any:
    return Augmentation({**clip.preprocess_cfg, **fields})


def test_a_view_is_fixed_by_its_number_in_every_process(clip: Clip) -> None:
    plain = Views(DrawnPairs([("circle", "red"), ("square", "blue")]), Pixels(clip.preprocess))
    views = replace(plain, augment=augmenting(clip))
    sent = pickle.loads(pickle.dumps(views.augment))  # noqa: S301 - our own bytes
    generator = torch.get_rng_state()
    first = views[0, 2]
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(first, replace(plain, augment=sent)[0, 2])
    assert first.shape == views[0, 0].shape and first.dtype == torch.uint8
    assert not any(torch.equal(first, views[draw]) for draw in ((0, 1), (1, 2), (0, 0)))
    assert torch.equal(views[0, 0], plain[0, 0])
    # Of 300 draws some ask for the least bits that Pillow lets a colour keep.
    assert all(views[0, view].dtype == torch.uint8 for view in range(1, 300))


def test_pixels_are_those_of_the_models_own_preprocessing(clip: Clip) -> None:
    pixels = Pixels(clip.preprocess)
    image = draw("circle", "red", seed=3)
    assert pixels(image).dtype == torch.uint8
    assert torch.equal(pixels.normalised(pixels(image)[None])[0], clip.preprocess(image))


def test_erased_images_are_those_of_timm(clip: Clip) -> None:
    ours, config = augmenting(clip, size=32), clip.preprocess_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    theirs = create_transform(
        (3, 32, 32), True, scale=(0.08, 1), ratio=(3 / 4, 4 / 3), interpolation="bicubic", hflip=0.5, color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel", mean=config["mean"], std=config["std"],
    )  # fmt: skip
    # Compared below: a level more or less becomes many behind it.
    theirs.transforms[0] = ours._cropped
    image, erased = draw("circle", "red", seed=3), 0
    for seed in range(40):
        for seed_one in (random.seed, np.random.seed, torch.manual_seed):
            seed_one(seed)
        wanted = (theirs(image) * std + mean) * 255
        erased += bool((wanted - wanted.round()).abs().max() > 0.01)
        assert (ours(image, seed).float() - wanted.clamp(0, 255)).abs().max() <= 0.51
    assert erased > 3


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int, height: int) -> Image.Image:
    """Coloured waves of several lengths, and an edge."""
    y, x = np.mgrid[:height, :width]
    edge = np.sin(x / 9 + y / 31) + np.sin(y / 5) * (x > y)
    waves = np.stack([edge, np.sin(x / 40 - y / 60), np.cos(x * y / 9_000)], -1)
    return Image.fromarray((127 + 40 * waves).astype(np.uint8))


def cropped(crop: Any, image: Image.Image, seed: int) -> Any:
    random.seed(seed)
    return np.asarray(crop(image), np.float64)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_part_is_that_of_timm_up_to_rounding(clip: Clip, interpolation: str) -> None:
    ours = augmenting(clip, interpolation=interpolation)._cropped
    theirs = RandomResizedCropAndInterpolation((32, 32), (0.08, 1), interpolation=interpolation)
    for seed in range(30):
        parts = (cropped(crop, scene(90, 70), seed) for crop in (ours, theirs))
        assert np.abs(np.subtract(*parts)).mean() < 0.3


@pytest.mark.parametrize("size", [(1024, 768), (1021, 515)])
def test_a_large_jpeg_is_decoded_small_where_enough_remains(
    clip: Clip, size: tuple[int, int]
) -> None:
    ours = augmenting(clip, size=64)
    data, decoded_at = encoded(scene(*size), quality=92), set()
    for seed in range(30):
        small, whole = (decode_image(data, 1 << 30, lazy=lazy) for lazy in (True, False))
        parts = [cropped(ours._cropped, image, seed) for image in (small, whole)]
        # A part begins at a whole pixel of what is decoded: half a pixel of it is a quarter of one
        # here.
        assert np.abs(np.subtract(*parts)).mean() < 6
        random.seed(seed)
        _, _, *part = ours._crop.get_params(small, ours._crop.scale, ours._crop.ratio)
        decoded_at.add(round(size[0] / small.width))
        assert min(part) >= DECODED * 64 * 0.98 or small.size == size
        assert whole.size == size
    assert max(decoded_at) > 1


def test_what_is_no_upright_rgb_jpeg_is_decoded_at_once() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for data, size in (
        (encoded(scene(80, 40), exif=turned), (40, 80)),
        (encoded(scene(80, 40).convert("CMYK")), (80, 40)),
        (encoded(scene(80, 40), "PNG"), (80, 40)),
    ):
        image = decode_image(data, 1 << 20, lazy=True)
        image.draft("RGB", (5, 5))
        assert (image.mode, image.size) == ("RGB", size)
        assert np.array_equal(np.asarray(image), np.asarray(decode_image(data, 1 << 20)))


def test_workers_are_no_more_than_shared_memory_has_room_for(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    views = Views(DrawnPairs([("circle", "red")] * 8), Pixels(clip.preprocess))
    started: list[int] = []
    monkeypatch.setattr(
        Views, "batches", lambda _, parts, workers, *rest: started.append(workers) or ()
    )
    needed = 3 * 32 * 32 * 4 * PREFETCHED * 2
    training = TrainingConfig(workers=3, processes=2, augmentation="none")
    batches = TrainingBatches(torch.arange(8), 4, views, None, training, World())
    for free in (3 * needed, 3 * needed - 1, 0):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda _path, usage=usage: usage)
        assert not list(batches.stream(range(2)))
    assert started == [3, 2, 0]
    assert caplog.text.count("--shm-size") == 2
