"""Segmentation without training: windows, several names a class, refinements, background; and the
student.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.dense import CLASSES, OWN, write_sets

from react_pipeline.clip.model import Clip, load
from react_pipeline.extensions.dense.maps import ClassVectors, Segmenter, padded, smoothed
from react_pipeline.extensions.dense.sets import MapImages, read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.extensions.dense.student import Student
from react_pipeline.store import Scratch
from react_pipeline.store.errors import CorruptArtifact, InputError, TrainingError


@pytest.fixture(scope="module")
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> MapImages:
    root = tmp_path_factory.mktemp("masks")
    write_sets(root / "shapes")
    found = read_dense_set(root, DenseConfig.model_validate({"own": OWN}).sets("shapes")[1])
    assert isinstance(found, MapImages)
    return found


def segmenter(clip: Clip, masks: MapImages, **fields: Any) -> Segmenter:
    return Segmenter(
        clip, masks, ["a {}"], DenseConfig.model_validate({"short_side": 64, **fields})
    )


def test_a_class_is_as_near_as_the_nearest_of_its_names(clip: Clip) -> None:
    together = ClassVectors.of(clip, ["background", "cat;dog", "car"], ["a {}"])
    alone = ClassVectors.of(clip, ["cat", "dog", "car"], ["a {}"])
    features = torch.nn.functional.normalize(torch.randn(2, 5, 32), dim=-1)
    cat, dog, car = alone.logits(features).unbind(-1)
    assert together.logits(features)[..., 0].eq(-math.inf).all()
    torch.testing.assert_close(
        together.logits(features)[..., 1:], torch.stack([cat.maximum(dog), car], -1)
    )


@pytest.mark.parametrize("window", [0, 32])
def test_every_pixel_gets_a_class_that_is_scored(clip: Clip, masks: MapImages, window: int) -> None:
    ids = segmenter(clip, masks, window=window, stride=16)(masks.image(0, 10_000))
    assert ids.shape == (64, 64) and ids.min() >= 1 and ids.max() < len(masks.class_names)
    with_background = segmenter(clip, masks, window=window, background_below=1.0)
    assert (
        with_background(masks.image(0, 10_000)) == 0
    ).all() and with_background.scores_background


def test_pixels_have_the_mean_of_the_windows_that_show_them(clip: Clip, masks: MapImages) -> None:
    made = segmenter(clip, masks, window=32, stride=32)
    pixels = torch.randn(1, 3, 64, 80)  # windows at 0 and 32; and at 48, which meets the border
    total, times = torch.zeros(1, made.vectors.count, 64, 80), torch.zeros(64, 80)
    for top, left in ((top, left) for top in (0, 32) for left in (0, 32, 48)):
        place = slice(top, top + 32), slice(left, left + 32)
        cells = made._refine(*made._look(pixels[:, :, *place]))
        total[:, :, *place] += torch.nn.functional.interpolate(
            cells.permute(0, 3, 1, 2), (32, 32), mode="bilinear"
        )
        times[place] += 1
    for size in ((64, 80), (50, 90)):
        wanted = torch.nn.functional.interpolate(total / times, size, mode="bilinear")[0]
        found = made.shares(pixels, size)
        torch.testing.assert_close(found, wanted.softmax(dim=0), atol=1e-3, rtol=1e-4)


def test_key_smoothing_shares_between_patches_of_like_keys() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.1, 0.0], [0.0, 5.0], [0.0, 5.0]]).view(1, 2, 2, 2)
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]).view(1, 2, 2, 2)
    shares = logits.softmax(-1).view(4, 2)
    found = smoothed(logits.softmax(-1), keys, 0.9).view(4, 2)
    torch.testing.assert_close(found[[0, 2, 3]], shares[[0, 2, 3]])
    weights = torch.tensor([0.6, 1.0, 0.8, 0.0])  # the negative cosine counts as 0
    torch.testing.assert_close(found[1], weights @ shares / weights.sum())
    torch.testing.assert_close(found.sum(-1), torch.ones(4))


def test_with_key_smoothing_shares_are_enlarged_and_not_logits(
    clip: Clip, masks: MapImages
) -> None:
    made = segmenter(clip, masks, key_smoothing=0.5)
    pixels = torch.randn(1, 3, 64, 64)
    cells = made._refine(*made._look(pixels))
    wanted = torch.nn.functional.interpolate(cells.permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    torch.testing.assert_close(made.shares(pixels, (64, 64)), wanted[0])
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(1, 64, 64))


def test_prompt_denoising_leaves_out_unlikely_classes(clip: Clip, masks: MapImages) -> None:
    image = masks.image(0, 10_000)
    made = segmenter(clip, masks)
    assert len(np.unique(made(image))) > 1
    assert (
        len(np.unique(segmenter(clip, masks, prompt_denoising=1.0)(image))) == 1
    )  # the likeliest one is left
    made.vectors.head.fill_(math.nan)
    with pytest.raises(CorruptArtifact, match="finite"):
        made(image)


def test_unlikely_classes_are_left_out_before_smoothing(clip: Clip, masks: MapImages) -> None:
    made = segmenter(clip, masks, prompt_denoising=0.6, key_smoothing=1.0)
    # Over two windows of two patches: only classes 0 and 1 are likely somewhere. Of class 2 every
    # patch has a third.
    shares = torch.tensor(
        [[[0.65, 0.05, 0.30], [0.35, 0.34, 0.31]], [[0.05, 0.65, 0.30], [0.35, 0.34, 0.31]]]
    )
    keys = torch.nn.functional.normalize(
        torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]).expand(2, 2, 2), dim=-1
    )
    cells = shares.log().unsqueeze(1), keys.unsqueeze(1)
    found = made._refine(*cells)
    assert found.shape == (2, 1, 2, 3)
    left = torch.nn.functional.pad(
        torch.nn.functional.normalize(shares[..., :2], p=1, dim=-1), (0, 1)
    )
    for number in (0, 1):
        expected = smoothed(left[number].view(1, 1, 2, 3), keys[number].view(1, 1, 2, 2), 1.0)
        torch.testing.assert_close(found[number], expected[0])
    # The likeliest class stays, however little likely it is.
    alone = segmenter(clip, masks, prompt_denoising=1.0)._refine(*cells)
    assert alone.argmax(dim=-1).unique().tolist() in ([0], [1], [0, 1])
    assert (alone.softmax(dim=-1)[..., 2] == 0).all()


def test_pixels_of_the_padding_are_not_in_the_map(clip: Clip, masks: MapImages) -> None:
    made = segmenter(clip, masks)
    pixels = torch.randn(1, 3, 64, 72)  # padded to 80
    whole = made.shares(padded(pixels, 16), (64, 80))
    torch.testing.assert_close(made.shares(pixels, (64, 72)), whole[..., :72], atol=1e-3, rtol=1e-4)


STUDENT = {
    "student_steps": 4,
    "student_batch": 2,
    "student_model": "lraspp_mobilenet_v3_large",
    "short_side": 64,
}


def trained(clip: Clip, masks: MapImages, root: Path, **fields: Any) -> Student:
    made = Student(segmenter(clip, masks), DenseConfig.model_validate({**STUDENT, **fields}))
    made.train(masks.source.root, "shapes/images", Scratch(root), 10_000)
    return made


@pytest.mark.parametrize("flipped", [False, True])
def test_a_killed_student_ends_with_uninterrupted_weights(
    clip: Clip, masks: MapImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipped: bool
) -> None:
    whole = trained(clip, masks, tmp_path / "whole")
    monkeypatch.setattr("react_pipeline.extensions.dense.student.SAVE_EVERY", 2)
    batch, seen = Student._batch, []

    def killed(self: Student, step: int, *given: Any) -> Any:
        seen.append(step)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return batch(self, step, *given)

    monkeypatch.setattr(Student, "_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(clip, masks, tmp_path / "killed")
    if flipped:
        (state,) = (tmp_path / "killed").rglob("state.pt")
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    resumed = trained(clip, masks, tmp_path / "killed")
    assert seen == [0, 1, 2, 3, *([0, 1] if flipped else []), 2, 3]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    ids = resumed(masks.image(0, 10_000))
    assert ids.shape == (64, 64) and ids.max() <= len(CLASSES)


@pytest.mark.parametrize(
    ("fields", "error", "token"),
    [
        ({"student_model": "unet"}, InputError, "student_model"),
        ({"student_learning_rate": 1e30}, TrainingError, "student_learning_rate"),
    ],
)
def test_a_student_that_cannot_learn_says_why(
    clip: Clip,
    masks: MapImages,
    tmp_path: Path,
    fields: dict[str, Any],
    error: type[Exception],
    token: str,
) -> None:
    with pytest.raises(error, match=token):
        trained(clip, masks, tmp_path, **fields)
