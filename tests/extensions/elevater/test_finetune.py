from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from support.elevater import random_head
from torch import Tensor, nn

from react_pipeline.clip.model import Clip, load
from react_pipeline.extensions.elevater import trainer as trainer_module
from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.extensions.elevater.sweep import Trial, adapt, sweep
from react_pipeline.extensions.elevater.trainer import (
    NOT_FINITE,
    ImageExamples,
    Trainer,
)

N_CLASSES = 3
sweep_module = import_module(
    "react_pipeline.extensions.elevater.sweep"
)  # the door has a function of this name


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "BATCH_SIZE", 8)


@pytest.fixture(scope="module")
def pixels() -> tuple[Tensor, Tensor]:
    """30 noisy images (3, 32, 32), one colour a class."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % N_CLASSES
    images = 0.5 * torch.randn(30, 3, 32, 32, generator=random)
    images[torch.arange(30), labels] += 0.5
    return images, labels


def examples(pixels: tuple[Tensor, Tensor], first: int, last: int) -> ImageExamples:
    images, labels = pixels
    return ImageExamples(lambda number: images[first + number], labels[first:last])


def snapshot(clip: Clip) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in clip.model.state_dict().items()}


def search_among(
    monkeypatch: pytest.MonkeyPatch,
    learning_rates: tuple[float, ...],
    weight_decays: tuple[float, ...],
) -> None:
    """A grid of few points, of which all weight decays are tried at once."""
    monkeypatch.setattr(sweep_module, "LEARNING_RATES", learning_rates)
    monkeypatch.setattr(sweep_module, "WEIGHT_DECAYS", weight_decays)
    monkeypatch.setattr(sweep_module, "FIRST_POINTS", range(len(weight_decays)))
    monkeypatch.setattr(sweep_module, "STEPS", ())


@pytest.mark.usefixtures("small_batches")
def test_fine_tuning_learns_and_leaves_the_given_model_alone(
    clip: Clip, pixels: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    search_among(monkeypatch, (0.003,), (1e-4,))
    before = snapshot(clip)
    train, test = examples(pixels, 0, 21), examples(pixels, 21, 30)
    split = split_training(train.labels.numpy(), n_classes=N_CLASSES)
    result = adapt(Trainer(random_head(N_CLASSES, 32), "accuracy", clip), train, test, split)
    assert result.final.best >= result.final.last > 0.6
    assert result.search.best == Trial(0.003, 1e-4)
    assert result.final.last_probabilities.shape == (9, N_CLASSES)
    after = clip.model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    visual = sum(parameter.numel() for parameter in clip.model.visual.parameters())
    assert result.final.n_trainable == visual + N_CLASSES * 33


@pytest.mark.parametrize("normalize", [True, False])
def test_one_step_is_that_of_pytorch_on_tower_and_head_together(
    clip: Clip, pixels: tuple[Tensor, Tensor], normalize: bool
) -> None:
    images, labels = pixels
    head, trial = random_head(N_CLASSES, 32), Trial(0.01, 0.1)
    # A batch of all images: one step an epoch.
    (curve,) = Trainer(head, "accuracy", clip, normalize=normalize)(
        examples(pixels, 0, 30),
        examples(pixels, 0, 30),
        [trial],
        epochs=2,
        keep_probabilities=True,
    )
    visual, norm, linear = (
        clip.model.visual,
        nn.BatchNorm1d(32, affine=False),
        nn.Linear(32, N_CLASSES),
    )
    linear.load_state_dict({"weight": head, "bias": torch.zeros(N_CLASSES)})
    model = nn.Sequential(norm, linear).train()

    def logits() -> Tensor:
        features = clip.model.encode_image(images, normalize=normalize)
        return model(features)

    clip.model.train().requires_grad_(True)
    optimizer = torch.optim.SGD(
        [*visual.parameters(), *model.parameters()], 0.01, momentum=0.9, weight_decay=0.1
    )
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(), labels).backward()
        optimizer.step()
    with torch.no_grad():
        model.eval()
        clip.model.eval()
        wanted = logits().softmax(dim=1)
    np.testing.assert_allclose(curve.last_probabilities, wanted.numpy(), atol=1e-4)


@pytest.mark.usefixtures("small_batches")
def test_a_diverging_trial_fails_by_name(clip: Clip, pixels: tuple[Tensor, Tensor]) -> None:
    train, test = examples(pixels, 0, 21), examples(pixels, 21, 30)
    trainer = Trainer(random_head(N_CLASSES, 32), "accuracy", clip)
    (curve,) = trainer(train, test, [Trial(0.1, 1e6)], epochs=9)
    assert curve.failure == NOT_FINITE
    assert curve.best == 0


def test_a_search_over_the_tower_uses_only_the_training_images(
    clip: Clip, pixels: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    search_among(monkeypatch, (1e-3, 1e-2), (1e-4, 1e-2, 1.0))
    images, labels = pixels
    read: list[int] = []

    def reader(number: int) -> Tensor:
        read.append(number)
        return images[number]

    everything = ImageExamples(reader, labels)
    train, held_out = everything.subset(np.arange(6, 12)), everything.subset(np.arange(3, 6))
    trainer = Trainer(random_head(N_CLASSES, 32), "accuracy", clip)
    result = sweep(lambda trials: trainer(train, held_out, trials, epochs=1))
    assert len(result.curves) == 6
    assert set(read) == set(range(3, 12))
