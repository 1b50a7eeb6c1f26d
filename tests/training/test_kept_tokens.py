"""Kept tokens: the same as computed ones, kept over a kill, and never believed when they cannot be
right.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.drawings import COLOURS, SHAPES
from support.methods import attach, set_trainable
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip import Pixels
from react_pipeline.clip.model import load
from react_pipeline.clip.tower import ImageTower
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.training import kept_tokens
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.data import Views
from react_pipeline.training.image_encoder import image_tower
from react_pipeline.training.kept_tokens import TOKENS, keep_tokens
from react_pipeline.training.world import World

VIEWS = 2
ABOUT_FILE = "tokens.json"


class Counting:
    """Frozen first blocks of a tower, that count the images they are given."""

    def __init__(self, tower: ImageTower) -> None:
        self._tower = tower
        self.images = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self._tower.tokens(images)


class Kept:
    """What is asked for in one test: the same pairs and tower every time."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        clip = load(checkpoint)
        attach(clip.model, "gated-image", 1)
        set_trainable(clip.model, "gated-image")
        self.pairs = DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS])
        pixels = Pixels(clip.preprocess)
        self.views = Views(
            self.pairs, pixels, augmentation("mild", pixels, clip.preprocess_cfg), seed=0
        )
        self.compute = Counting(ImageTower(clip.model))
        self.scratch = Scratch(directory)

    def keep(
        self, *, views: int = VIEWS, dtype: torch.dtype = torch.float32, workers: int = 0
    ) -> Tensor | None:
        self.compute.images = 0
        return keep_tokens(self.compute, self.views, views, self.scratch, World(), dtype, workers)

    @property
    def file(self) -> Path:
        (path,) = self.scratch.folder.glob(f"{TOKENS}-*")
        return path

    @property
    def was_computed(self) -> bool:
        """Whether more than the one image that tells the shape went through the tower."""
        return self.compute.images > 1

    def expected(self, position: int, view: int, dtype: torch.dtype = torch.float32) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return self.compute(self.views.batch([(position, view)]))[0].to(dtype)


@pytest.fixture
def kept(tiny_checkpoint: Path, tmp_path: Path) -> Kept:
    return Kept(tiny_checkpoint, tmp_path)


def require_right(kept: Kept, tokens: Tensor | None) -> None:
    assert tokens is not None
    # In batches of another size a sum may be rounded another way: by one unit of bf16, that is
    # 2**-8 of the largest.
    close = (
        {"atol": 1e-5, "rtol": 1e-5}
        if tokens.dtype == torch.float32
        else {"atol": 0.1, "rtol": 0.01}
    )
    for position in (0, 7, len(kept.pairs) - 1):
        for view in range(tokens.shape[1]):
            torch.testing.assert_close(
                tokens[position, view], kept.expected(position, view, tokens.dtype), **close
            )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_is_what_is_computed(
    kept: Kept, dtype: torch.dtype, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "BATCH", 5)  # so that the last batch is a smaller one
    tokens = kept.keep(dtype=dtype, workers=workers)
    assert tokens is not None
    assert (tokens.dtype, tuple(tokens.shape[:2])) == (dtype, (16, VIEWS))
    assert (kept.file).stat().st_size == tokens.numel() * dtype.itemsize
    require_right(kept, tokens)
    assert not torch.equal(tokens[0, 0], tokens[0, 1])


def test_features_of_a_locked_tower_are_kept_as_well(kept: Kept) -> None:
    tokens = keep_tokens(
        lambda images: kept.compute(images)[:, 0],
        kept.views,
        1,
        kept.scratch,
        World(),
        torch.float32,
        0,
    )
    assert tokens is not None
    assert tokens.shape == (16, 1, 32)
    torch.testing.assert_close(tokens[3, 0], kept.expected(3, 0)[0], atol=1e-5, rtol=1e-5)


def test_a_finished_file_is_found_again_whatever_disk_has_left(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept.keep()
    assert kept.was_computed
    monkeypatch.setattr(kept_tokens, "MAX_DISK_FRACTION", 0)
    second = kept.keep()
    assert not kept.was_computed
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "change",
    [{"dtype": torch.bfloat16}, {"views": VIEWS + 1}, {"views": 1}],
    ids=["dtype", "more views", "fewer views"],
)
def test_a_file_of_another_form_is_computed_again(kept: Kept, change: dict[str, object]) -> None:
    kept.keep()
    tokens = kept.keep(**change)  # type: ignore[arg-type]
    assert kept.was_computed
    require_right(kept, tokens)


def test_a_file_of_other_pairs_is_computed_again(kept: Kept) -> None:
    kept.keep()
    kept.views.pairs = DrawnPairs([("circle", "red"), ("cross", "blue")])
    tokens = kept.keep()
    assert kept.was_computed
    assert tokens is not None
    assert len(tokens) == 2


def test_what_does_not_fit_the_disk_is_not_kept(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "MAX_DISK_FRACTION", 0)
    assert kept.keep() is None
    assert not kept.was_computed
    assert list(kept.scratch.folder.iterdir()) == []


def test_fused_layers_are_tried_on_a_few_images(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "LONG_RUN", len(kept.pairs))
    monkeypatch.setattr(kept_tokens, "CPU_IMAGES", 3)
    tried: list[int] = []

    def convert(run: Any, model: object, probes: Any, precision: str) -> Any:
        tried.extend(map(len, probes))
        return run

    monkeypatch.setattr(kept_tokens, "convert", convert)
    arguments = kept.compute, kept.views, 1, kept.scratch, World(), torch.float32, 0
    assert keep_tokens(*arguments, torch.nn.Identity()) is not None
    assert tried == [3, 1]


def test_a_locked_tower_is_run_by_the_model_itself() -> None:
    visual = torch.nn.Linear(1, 1).requires_grad_(False)
    assert image_tower(SimpleNamespace(visual=visual), TrainingConfig(), "cpu") is None
