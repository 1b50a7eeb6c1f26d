"""Training of heads and towers against PyTorch's own layers, optimizer and loader; which training
images are used, and the search for learning rate and weight decay on them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.elevater import random_head
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from react_pipeline.clip import Clip, load
from react_pipeline.extensions.elevater import trainer as trainer_module
from react_pipeline.extensions.elevater.shots import Split, hold_out, sample_shots, split_training
from react_pipeline.extensions.elevater.trainer import (
    LEARNING_RATES,
    SEED,
    WEIGHT_DECAYS,
    Curve,
    Examples,
    Trainer,
    Trial,
    adapt,
    sweep,
)
from react_pipeline.store import InputError, TrainingError

TRIALS = [Trial(1e-4, 1.0), Trial(1e-1, 1e-2)]
WILD = Trial(0.1, 1e6)


def of(inputs: Tensor, labels: Tensor) -> Examples:
    load = partial(map, inputs.__getitem__)
    return Examples(labels, torch.arange(len(labels)), load)


def inputs(examples: Examples) -> Tensor:
    return next(iter(examples.load([examples.numbers])))


def clusters(seed: int, n: int, several: bool = False) -> Examples:
    """Features around one centre a class; of several classes, every third example has two."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    centres = torch.randn(5, 12, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + torch.randn(n, 12, generator=random)
    rows = nn.functional.one_hot(labels, 5)
    more = rows.roll(1, dims=1) * (torch.arange(n) % 3 == 0)[:, None]
    return of(features, rows | more if several else labels)


def by_torch(
    train: Examples,
    test: Examples,
    head: Tensor,
    trial: Trial,
    epochs: int,
    clip: Clip | None = None,
) -> Tensor:
    """Probabilities after training with PyTorch's own layers, optimizer and loader, one trial by
    itself; with a model its image tower trains, too.
    """
    n_classes, width = head.shape
    linear = nn.Linear(width, n_classes)
    linear.load_state_dict({"weight": head, "bias": torch.zeros(n_classes)})
    model = nn.Sequential(nn.BatchNorm1d(width, affine=False), linear)
    tower = deepcopy(clip.model).requires_grad_(True) if clip else nn.Identity()

    def logits(given: Tensor) -> Tensor:
        return model(tower.encode_image(given, normalize=True) if clip else given)

    optimizer = torch.optim.SGD(
        [*(tower.visual if clip else tower).parameters(), *model.parameters()],
        trial.learning_rate,
        momentum=0.9,
        weight_decay=trial.weight_decay,
    )
    loader = DataLoader(
        TensorDataset(inputs(train), train.labels),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    several = train.labels.ndim == 2
    criterion = nn.BCEWithLogitsLoss() if several else nn.CrossEntropyLoss()
    for _ in range(epochs):
        for module in (model, tower):
            module.train()
        for given, labels in loader:
            if len(given) > 1:
                optimizer.zero_grad()
                criterion(logits(given), labels.float() if several else labels).backward()
                optimizer.step()
    for module in (model, tower):
        module.eval()
    with torch.no_grad():
        return logits(inputs(test)).softmax(dim=1)


@pytest.mark.parametrize("several", [False, True], ids=["multiclass", "multilabel"])
@pytest.mark.parametrize("trial", TRIALS)
def test_a_head_trains_as_with_pytorchs_own_layers(several: bool, trial: Trial) -> None:
    # 65 examples leave a batch of one, which is skipped.
    train, test = clusters(0, 65 + 64, several), clusters(1, 100, several)
    head = random_head(5, 12, seed=3)
    train_trial = Trainer(head, "11point_mAP" if several else "accuracy")
    curve = train_trial(train, test, trial, epochs=4)
    # Those of the first of the best epochs.
    best = int(np.argmax(curve.scores)) + 1
    reference = by_torch(train, test, head, trial, epochs=best)
    np.testing.assert_allclose(curve.best_probabilities, reference.numpy(), atol=1e-5)
    wild = train_trial(train, test, WILD, epochs=9)
    assert (wild.failed, wild.best) == (True, 0) and len(wild.scores) < 9


def test_tower_and_head_train_together_as_with_pytorch(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, head, trial = load(tiny_checkpoint), random_head(3, 32), Trial(0.01, 0.1)
    before = deepcopy(clip.model.state_dict())
    # Noisy images, one colour a class. A batch of all of them: one step an epoch.
    labels = torch.arange(30) % 3
    images = 0.5 * torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[torch.arange(30), labels] += 0.5
    examples, train_trial = of(images, labels), Trainer(head, "accuracy", clip)
    curve = train_trial(examples, examples, trial, epochs=2)
    best = int(np.argmax(curve.scores)) + 1
    wanted = by_torch(examples, examples, head, trial, best, clip)
    np.testing.assert_allclose(curve.best_probabilities, wanted.numpy(), atol=1e-4)
    monkeypatch.setattr(trainer_module, "BATCH_SIZE", 8)
    wild = train_trial(examples, examples, WILD, epochs=9)
    assert wild.failed and len(wild.scores) < 9
    after = clip.model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())


Score = Callable[[float, int], float | None]
"""Learning rate and grid point to a score; None is a failure."""


def grid_point(trial: Trial) -> int:
    return WEIGHT_DECAYS.index(trial.weight_decay)


def scored(score: Score) -> Callable[[Trial], Curve]:
    def train_trial(trial: Trial) -> Curve:
        value = score(trial.learning_rate, grid_point(trial))
        return Curve(trial, [] if value is None else [value], value is None)

    return train_trial


def one_after_another(score: Score) -> tuple[float, int, float]:
    """The published search in words: learning rates in turn, and in each the grid, then both
    neighbours by steps.
    """
    best = (0.0, -1, 0.0)
    for learning_rate in np.logspace(-6, -1, 6).tolist():
        peak, height = -1, 0.0
        for step in (16, 8, 4, 2, 1):
            around = [max(peak - step, 0), min(peak + step, 96)]
            for point in range(0, 97, 16) if step == 16 else around:
                if (score(learning_rate, point) or 0.0) > height:
                    peak, height = point, score(learning_rate, point) or 0.0
            if peak < 0:
                break
        if height > best[2]:
            best = (learning_rate, peak, height)
    return best


def bumpy(seed: int, steps: int) -> Score:
    random = np.random.default_rng(seed)
    table = np.convolve(random.random(97 * 6), np.ones(9) / 9, mode="same").reshape(6, 97)
    table = np.round(table * steps) / steps
    broken = random.random((6, 97)) < 0.2
    rates = list(LEARNING_RATES)
    return lambda rate, point: (
        None if broken[rates.index(rate), point] else float(table[rates.index(rate), point])
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [1_000_000, 8])  # a few steps make ties
def test_the_search_is_the_published_one(seed: int, steps: int) -> None:
    assert pytest.approx(np.logspace(-6, 6, 97)) == WEIGHT_DECAYS
    score = bumpy(seed, steps)
    found, _ = sweep(scored(score))
    place = (found.trial.learning_rate, grid_point(found.trial), found.best)
    assert place == one_after_another(score)


def test_failures_never_win_and_are_an_error_if_all_fail() -> None:
    found, failed = sweep(scored(lambda rate, point: None if point >= 48 else 0.0))
    assert (found.best, grid_point(found.trial)) == (0, 0)
    assert failed == 6 * 4
    with pytest.raises(TrainingError, match="all 42 trials"):
        sweep(scored(lambda rate, point: None))


SPLIT = Split(search=np.array([2, 3]), held_out=np.array([0, 1]), final=np.arange(4))


@pytest.mark.parametrize("fails", [False, True])
def test_the_search_sees_no_test_image_and_training_has_both(fails: bool) -> None:
    seen = []

    def train_trial(train, evaluation, trial, *, epochs):
        seen.append((*train.numbers.tolist(), "on", *evaluation.numbers.tolist(), epochs))
        return Curve(trial, [0.2, 0.7], fails and epochs == 50)

    train, test = (Examples(one, one, iter) for one in (torch.arange(4), torch.tensor([9])))
    if fails:
        with pytest.raises(TrainingError, match="1e-06 .* 1e-06: .* finite after 2 of 50"):
            adapt(train_trial, train, test, SPLIT)
    else:
        final, failed = adapt(train_trial, train, test, SPLIT)
        assert (final.best, final.scores[-1], failed) == (0.7, 0.7, 0)
    assert set(seen[:-1]) == {(2, 3, "on", 0, 1, 10)}
    assert seen[-1] == (0, 1, 2, 3, "on", 9, 50)


def test_samples_are_those_of_the_toolkit_and_never_change() -> None:
    """Drawn by `sample_few_shot_subset` of vision-datasets 0.2.17."""
    labels = np.arange(40) % 4
    assert sample_shots(labels, 2, seed=1, n_classes=4).tolist() == [23, 2, 11, 1, 37, 32, 34, 20]
    chances = np.linspace(0.05, 0.6, 6)
    several = (np.random.default_rng(0).random((60, 6)) < chances).astype(np.uint8)
    several[::10] = 0
    drawn = "12 33 29 36 44 47 5 41 9 18 37 25"
    assert " ".join(map(str, sample_shots(several, 2, 0, n_classes=6))) == drawn
    # A class with too few images gives all of them.
    assert sorted(sample_shots(np.array([0, 1, 2, 3]), 20, seed=0, n_classes=5)) == [0, 1, 2, 3]


def test_a_fifth_of_each_class_is_held_out_from_the_front() -> None:
    labels = np.array([1] * 5 + [0] * 6 + [1] * 5)
    trained, held = hold_out(labels)
    assert held.tolist() == [0, 1, 5, 6]
    assert trained.tolist() == [2, 3, 4, *range(7, 16)]


def test_the_multilabel_cover_takes_the_lowest_class_first() -> None:
    labels = np.array([[0, 1], [1, 1], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0]])
    # Class 0 (5 images) wants 1: image 1, which serves class 1 (4 images, wants 1) too.
    assert hold_out(labels)[1].tolist() == [1]
    labels[1] = [1, 0]
    assert hold_out(labels)[1].tolist() == [1, 0]


def test_the_final_training_uses_the_held_out_part_too() -> None:
    labels = np.random.default_rng(0).integers(4, size=200)
    full = split_training(labels, n_classes=4)
    whole = [*full.search.tolist(), *full.held_out.tolist()]
    assert full.final.tolist() == sorted(whole) == list(range(200))
    few = split_training(labels, n_classes=4, shots=5, seed=2)
    assert few.final.tolist() == sample_shots(labels, 5, 2, n_classes=4).tolist()
    assert np.bincount(labels[few.held_out]).tolist() == [1] * 4
    assert np.bincount(labels[few.search]).tolist() == [4] * 4


def test_patch_camelyon_searches_a_sample_and_trains_on_all() -> None:
    labels = np.arange(24_000) % 2
    split = split_training(labels, n_classes=2, dataset="patch-camelyon")
    assert np.bincount(labels[split.search]).tolist() == [8_000] * 2
    assert np.bincount(labels[split.held_out]).tolist() == [2_000] * 2
    assert len(split.final) == 24_000
    assert len(split_training(labels, n_classes=2).search) == 19_200


@pytest.mark.parametrize("labels", [[], [0, 1], [0, 0, 1]])
def test_a_split_with_too_few_images_to_train_on_is_refused(labels: list[int]) -> None:
    with pytest.raises(InputError, match="too few are left"):
        split_training(np.asarray(labels, dtype=np.int64), n_classes=2)
