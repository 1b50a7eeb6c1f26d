"""Segmentation without training: dense features against the model's own blocks, formulas written
out, refinements; and the student.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from support.dense import CLASSES, OWN, write_sets
from support.methods import RESNET, VIT, small_clip
from torch import Tensor

from react_pipeline.clip import Clip, add_gated_blocks, load
from react_pipeline.extensions.dense import student
from react_pipeline.extensions.dense.maps import DenseTower, Segmenter, class_logits, smoothed
from react_pipeline.extensions.dense.sets import MapImages, read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.extensions.dense.student import Student
from react_pipeline.store import CorruptArtifact, InputError, Scratch, TrainingError


@pytest.fixture(scope="module")
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> MapImages:
    root = tmp_path_factory.mktemp("masks")
    write_sets(root / "shapes")
    return read_dense_set(root, DenseConfig.model_validate({"own": OWN}).sets("shapes")[1])


def segmenter(clip: Clip, masks: MapImages, **fields: Any) -> Segmenter:
    config = DenseConfig.model_validate({"short_side": 64, **fields})
    return Segmenter(clip, masks.class_names, ["a {}"], config)


@pytest.mark.parametrize("key_smoothing", [0.0, 0.5])
def test_every_pixel_gets_the_class_of_its_enlarged_patches(
    clip: Clip, masks: MapImages, key_smoothing: float
) -> None:
    made = segmenter(clip, masks, short_side=72, key_smoothing=key_smoothing)
    image = masks.image(0, 10_000)
    ids = made(image.crop((0, 0, 64, 32)))
    assert ids.shape == (32, 64) and ids.max() < len(masks.class_names)
    # 144 x 72 pixels are padded to 144 x 80, which is 9 x 5 patches.
    features, keys = made.tower(torch.randn(1, 3, 80, 144))
    cells = made.refine(class_logits(features, made.head), keys)
    assert cells.shape == (1, 5, 9, len(masks.class_names))
    made.head.fill_(math.nan)
    with pytest.raises(CorruptArtifact, match="finite"):
        made(image)


def test_key_smoothing_shares_between_patches_of_like_keys() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.1, 0.0], [0.0, 5.0], [0.0, 5.0]]).view(1, 2, 2, 2)
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]).view(1, 2, 2, 2)
    shares = logits.softmax(-1).view(4, 2)
    found = smoothed(logits.softmax(-1), keys, 0.9).view(4, 2)
    torch.testing.assert_close(found[[0, 2, 3]], shares[[0, 2, 3]])
    weights = torch.tensor([0.6, 1.0, 0.8, 0.0])  # the negative cosine counts as 0
    torch.testing.assert_close(found[1], weights @ shares / weights.sum())


def test_unlikely_classes_are_left_out_before_smoothing(clip: Clip, masks: MapImages) -> None:
    # Of four patches: only classes 0 and 1 are likely somewhere. Of class 2 every patch has a
    # third.
    rows = [[0.65, 0.05, 0.30], [0.35, 0.34, 0.31], [0.05, 0.65, 0.30], [0.35, 0.34, 0.31]]
    shares = torch.tensor(rows).view(1, 1, 4, 3)
    keys = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).view(1, 1, 4, 2)
    keys = functional.normalize(keys, dim=-1)
    made = segmenter(clip, masks, prompt_denoising=0.6, key_smoothing=1.0)
    left = functional.normalize(shares[..., :2], p=1, dim=-1)
    wanted = smoothed(functional.pad(left, (0, 1)), keys, 1.0)
    torch.testing.assert_close(made.refine(shares.log(), keys), wanted)
    # The likeliest class stays, however little likely it is.
    alone = segmenter(clip, masks, prompt_denoising=1.0).refine(shares.log(), keys)
    assert alone.isfinite().any(dim=-1).all() and (alone.softmax(dim=-1)[..., 2] == 0).all()


def test_an_image_of_which_one_class_is_likely_has_that_class_everywhere(
    clip: Clip, masks: MapImages
) -> None:
    image = masks.image(0, 10_000).crop((0, 0, 64, 32))
    plain = segmenter(clip, masks, short_side=72)
    alone = segmenter(clip, masks, short_side=72, prompt_denoising=1.0)
    assert len(set(plain(image).flat)) > 1 == len(set(alone(image).flat))


def trained(clip: Clip, masks: MapImages, root: Path, **fields: Any) -> Student:
    config = DenseConfig.model_validate({"student_steps": 4, "short_side": 64, **fields})
    made = Student(segmenter(clip, masks), config)
    path = masks.pictures[0].path
    made.train(Path(str(path)).parents[2], "shapes/images", Scratch(root), 10_000)
    return made


@pytest.mark.parametrize("flipped", [False, True])
def test_a_killed_student_ends_with_uninterrupted_weights(
    clip: Clip, masks: MapImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipped: bool
) -> None:
    monkeypatch.setattr(student, "BATCH", 2)
    whole = trained(clip, masks, tmp_path / "whole")
    monkeypatch.setattr(student, "SAVE_EVERY", 2)
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
        (state,) = (tmp_path / "killed").glob("step-*")
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    Scratch(tmp_path / "again").begin(Scratch(tmp_path / "killed"))
    resumed = trained(clip, masks, tmp_path / "again")
    assert seen == [0, 1, 2, 3, *([0, 1] if flipped else []), 2, 3]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    ids = resumed(masks.image(0, 10_000))
    assert ids.shape == (64, 64) and ids.max() < len(CLASSES)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("student_model", "unet", InputError), ("student_learning_rate", 1e30, TrainingError)],
)
def test_a_student_that_cannot_learn_says_why(
    clip: Clip, masks: MapImages, tmp_path: Path, field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=field):
        trained(clip, masks, tmp_path, **{field: value})


def test_a_student_needs_images(clip: Clip, masks: MapImages, tmp_path: Path) -> None:
    student = Student(segmenter(clip, masks), DenseConfig())
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none holds no image"):
        student.train(tmp_path, "none", Scratch(tmp_path), 10_000)


def a_model() -> Any:
    """A ViT for images of 64 pixels, in 4 x 4 patches."""
    return small_clip({**VIT, "image_size": 64}, dimension=32).requires_grad_(False)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gated", [0, 2])
def test_a_patch_keeps_its_own_value_in_the_last_block(gated: int) -> None:
    model = a_model()
    if gated:
        add_gated_blocks(model, gated)
        for parameter in model.visual.parameters():
            parameter.data += 0.05 * (parameter.ndim == 0)
    tower = DenseTower(model)
    block, entering = tower.tower.blocks[-1], []
    # What enters the host, after the gated block before it.
    handle = block.ln_1.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model.visual(images())
    handle.remove()
    x = entering[0]
    packed = functional.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    _, key, value = packed.chunk(3, -1)
    y = x + block.attn.out_proj(value)
    y = y + block.mlp(block.ln_2(y))
    wanted = model.visual.ln_post(y) @ model.visual.proj, block.attn.out_proj(key)
    for found, part in zip(tower(images()), wanted, strict=True):
        unit = functional.normalize(part[:, 1:], dim=-1).unflatten(1, (4, 4))
        torch.testing.assert_close(found, unit, atol=2e-5, rtol=1e-4)


def test_zero_gates_give_the_dense_map_of_the_base_bit_for_bit() -> None:
    base = a_model()
    gated, pixels = copy.deepcopy(base), images()
    add_gated_blocks(gated, 2)
    for one, other in zip(DenseTower(base)(pixels), DenseTower(gated)(pixels), strict=True):
        assert torch.equal(one, other)
    gated.visual.requires_grad_(False)
    DenseTower(gated).tower.blocks[-1].gated_attn_block.alpha_attn.data.fill_(0.5)
    assert not torch.equal(DenseTower(base)(pixels)[0], DenseTower(gated)(pixels)[0])


def test_positions_are_resized_for_other_sizes_only() -> None:
    model = a_model()
    own = model.visual.positional_embedding
    before = own.clone()
    assert DenseTower(model)(images(96, 128))[0].shape == (2, 6, 8, 32)
    assert model.visual.positional_embedding is own and torch.equal(own, before)
    # Positions that are all alike stay so at any size: an image that repeats has a map that
    # repeats.
    own.data[1:] = own.data[1:2]
    wide = DenseTower(model)(images().repeat(1, 1, 1, 2))[0]
    torch.testing.assert_close(wide[:, :, :4], wide[:, :, 4:], atol=1e-5, rtol=1e-4)


def test_other_towers_are_refused_by_name() -> None:
    timm = {
        "timm_model_name": "test_vit",
        "image_size": 160,
        "timm_pool": "avg",
        "timm_proj": "linear",
    }
    for model in (small_clip(timm, custom=True), small_clip(RESNET)):
        with pytest.raises(InputError, match="need a ViT"):
            DenseTower(model)
