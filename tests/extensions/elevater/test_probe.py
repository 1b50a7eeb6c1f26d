from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support.elevater import random_head
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.extensions.elevater.sweep import LEARNING_RATES, Trial, adapt
from react_pipeline.extensions.elevater.trainer import (
    NOT_FINITE,
    SEED,
    FeatureExamples,
    Trainer,
)

TRIALS = [Trial(rate, decay) for rate in (1e-4, 1e-2, 1e-1) for decay in (1e-6, 1e-2, 1.0)]


def clusters(seed: int = 0, n: int = 300, width: int = 12, n_classes: int = 5) -> FeatureExamples:
    """Features around one centre a class; the last batch of 300 holds 44."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, width, generator=torch.Generator().manual_seed(99))
    return FeatureExamples(centres[labels] + torch.randn(n, width, generator=random), labels)


def multilabel(examples: FeatureExamples, n_classes: int = 5) -> FeatureExamples:
    rows = torch.nn.functional.one_hot(examples.labels, n_classes)
    return FeatureExamples(
        examples.features,
        (rows | rows.roll(1, dims=1) * (torch.arange(len(rows)) % 3 == 0)[:, None]),
    )


def by_torch(
    train: FeatureExamples, test: FeatureExamples, head: torch.Tensor, trial: Trial, epochs: int
) -> torch.Tensor:
    """Probabilities after training with PyTorch's own layers, optimizer and loader, one trial by
    itself.
    """
    n_classes, width = head.shape
    norm, linear = nn.BatchNorm1d(width, affine=False), nn.Linear(width, n_classes)
    linear.load_state_dict({"weight": head, "bias": torch.zeros(n_classes)})
    optimizer = torch.optim.SGD(
        linear.parameters(), trial.learning_rate, momentum=0.9, weight_decay=trial.weight_decay
    )
    loader = DataLoader(
        TensorDataset(train.features, train.labels),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    several = train.labels.ndim == 2
    criterion = nn.BCEWithLogitsLoss() if several else nn.CrossEntropyLoss()
    for _ in range(epochs):
        norm.train()
        for features, labels in loader:
            if len(features) == 1:
                continue
            optimizer.zero_grad()
            logits = linear(norm(features))
            criterion(logits, labels.float() if several else labels).backward()
            optimizer.step()
    norm.eval()
    with torch.no_grad():
        return (linear(norm(test.features))).softmax(dim=1)


@pytest.mark.parametrize("several", [False, True], ids=["multiclass", "multilabel"])
def test_trials_trained_at_once_equal_trials_one_by_one(
    several: bool,
) -> None:
    # 65 examples leave a batch of one, which is skipped.
    train, test = clusters(0, n=65 + 64), clusters(1, n=100)
    if several:
        train, test = multilabel(train), multilabel(test)
    head = random_head(5, 12, seed=3)
    metric = "11point_mAP" if several else "accuracy"
    at_once = Trainer(head, metric)(train, test, TRIALS, epochs=4, keep_probabilities=True)
    for trial, curve in zip(TRIALS, at_once, strict=True):
        alone = Trainer(head, metric)(train, test, [trial], epochs=4, keep_probabilities=True)[0]
        assert curve.trial == trial
        assert curve.scores == pytest.approx(alone.scores, abs=1e-5)
        np.testing.assert_allclose(curve.last_probabilities, alone.last_probabilities, atol=1e-5)
        reference = by_torch(train, test, head, trial, epochs=4)
        np.testing.assert_allclose(curve.last_probabilities, reference.numpy(), atol=1e-5)


def test_a_failing_trial_is_named_stops_and_leaves_others_alone() -> None:
    train, test, head = clusters(0), clusters(1), random_head(5, 12)
    wild = Trial(0.1, 1e6)
    with_wild = Trainer(head, "accuracy")(
        train,
        test,
        [TRIALS[0], wild, TRIALS[4]],
        epochs=6,
        keep_probabilities=True,
    )
    without = Trainer(head, "accuracy")(
        train, test, [TRIALS[0], TRIALS[4]], epochs=6, keep_probabilities=True
    )
    assert [curve.failure for curve in with_wild] == ["", NOT_FINITE, ""]
    assert len(with_wild[1].scores) < 6
    (alone,) = Trainer(head, "accuracy")(train, test, [wild], epochs=6)
    assert (alone.failure, alone.scores) == (NOT_FINITE, with_wild[1].scores)
    for left, right in zip([with_wild[0], with_wild[2]], without, strict=True):
        assert left.scores == right.scores
        np.testing.assert_allclose(left.last_probabilities, right.last_probabilities, atol=1e-6)


def test_best_probabilities_are_those_of_first_best_epoch() -> None:
    train, test, head = clusters(0), clusters(1), random_head(5, 12)
    curve = Trainer(head, "accuracy")(
        train, test, [Trial(0.1, 0.0)], epochs=8, keep_probabilities=True
    )[0]
    best = int(np.argmax(curve.scores))
    again = Trainer(head, "accuracy")(
        train, test, [Trial(0.1, 0.0)], epochs=best + 1, keep_probabilities=True
    )[0]
    np.testing.assert_array_equal(curve.best_probabilities, again.last_probabilities)


def test_a_probe_learns_handwritten_digits_without_text() -> None:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    trained, tested = order[:1200], order[1200:]
    train, test = (
        FeatureExamples(torch.tensor(pixels[part], dtype=torch.float32), torch.tensor(labels[part]))
        for part in (trained, tested)
    )
    split = split_training(labels[trained], n_classes=10)
    result = adapt(Trainer(random_head(10, 64), "accuracy"), train, test, split)
    assert result.final.best >= result.final.last > 0.9
    assert len(result.search.curves) > 6 * 7
    assert result.search.failures[NOT_FINITE] > 0
    assert result.search.best.learning_rate in LEARNING_RATES
    assert len(result.final.scores) == 50
    assert result.final.last_probabilities.shape == (597, 10)
