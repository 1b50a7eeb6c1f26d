"""Training of heads and towers against PyTorch's own layers, optimizer and loader."""

from __future__ import annotations

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
from react_pipeline.extensions.elevater.trainer import (
    SEED,
    Examples,
    Trainer,
    Trial,
)

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
