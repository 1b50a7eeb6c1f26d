"""Training as ELEVATER does: a linear head on features, or the image tower and a head together, and
the search for learning rate and weight decay before.

Weight decays are a grid of 97 points, eight to a decade. Each learning rate starts with 7 of them,
two decades apart, and then looks 8, 4, 2 and 1 points to both sides of its best. Does not belong
here: which images (`shots`), reading them. Shapes: N examples, B of them in a batch, H x W pixels,
D width of the features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name
from torch.utils.data import DataLoader

from react_pipeline.clip import Clip, arithmetic
from react_pipeline.store import TrainingError

from .metrics import measure
from .shots import Indices, Split

LEARNING_RATES = tuple(np.logspace(-6, -1, 6).tolist())
WEIGHT_DECAYS = tuple(np.logspace(-6, 6, 97).tolist())
FIRST_POINTS = tuple(range(0, 97, 16))
STEPS = (8, 4, 2, 1)
SWEEP_EPOCHS, FINAL_EPOCHS = 10, 50
MOMENTUM, BATCH_SIZE, SEED = 0.9, 64, 0
"""Settings of SGD and its batches, as in the benchmark; their order is the same in each trial."""


@dataclass(frozen=True)
class Trial:
    """What a trial varies."""

    learning_rate: float
    weight_decay: float


@dataclass
class Curve:
    """How one trial goes.

    Attributes:
        scores: The metric on the evaluated images after each epoch, fractions; shorter if the trial
            failed.
        failed: Whether its weights or logits overflowed: learning rate times weight decay is too
            large.
        best_probabilities: (N, C) after the epoch with the best score (the first of equals).
    """

    trial: Trial
    scores: list[float] = field(default_factory=list)
    failed: bool = False
    best_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def best(self) -> float:
        """Return the score of the best epoch; 0 for a trial that failed, even if it failed late."""
        return 0.0 if self.failed else max(self.scores)


@dataclass(frozen=True)
class Examples:
    """Features or images with labels.

    Attributes:
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
        numbers: What `load` calls each example (N,), int64.
        load: Maps batches of numbers to their features, (B, D) as a head sees them, or to their
            preprocessed images (B, 3, H, W), float32; the same each time.
    """

    labels: Tensor
    numbers: Tensor
    load: Callable[[Iterable[Tensor]], Iterable[Tensor]]

    def subset(self, indices: Indices) -> Examples:
        """Return the examples at `indices`, in that order."""
        places = torch.from_numpy(indices)
        return Examples(self.labels[places], self.numbers[places], self.load)

    def inputs(self, order: Iterable[Tensor]) -> Iterable[Tensor]:
        """Return the inputs of each batch of `order`."""
        return self.load(self.numbers[batch] for batch in order)


@dataclass(frozen=True)
class Trainer:
    """Trains a fresh model for each trial, all from the same start and on the same batches.

    SGD with momentum at a constant learning rate; weight decay on everything that trains. Batch
    normalisation without scale and shift comes before the head. A tower is in training mode, as in
    the benchmark: a ResNet's batch statistics move.

    Attributes:
        start: The weight (C, D) that each head starts from: class vectors of the text tower. Its
            bias starts from 0.
        metric: What is measured after each epoch.
        clip: The model whose image tower trains too, on images; None: heads alone, on features. It
            is never changed.
    """

    start: Tensor
    metric: str
    clip: Clip | None = None

    @arithmetic()
    def __call__(
        self,
        train: Examples,
        evaluation: Examples,
        trial: Trial,
        *,
        epochs: int,
    ) -> Curve:
        """Train on some examples, and measure on others after each epoch.

        Raises:
            InputError: If the metric cannot be measured on `evaluation`.
        """
        curve = Curve(trial)
        device = self.clip.device if self.clip else train.labels.device
        with torch.random.fork_rng():
            model = self._fresh_model().to(device)
            optimizer = torch.optim.SGD(
                model.parameters(),
                trial.learning_rate,
                momentum=MOMENTUM,
                weight_decay=trial.weight_decay,
            )
            torch.manual_seed(SEED)  # dropout of the tower, if it has any
            generator = torch.Generator().manual_seed(SEED)
            for _ in range(epochs):
                model.train()
                order = list(_batches(len(train.labels), generator))
                for batch, inputs in zip(order, train.inputs(order), strict=True):
                    loss = _loss(model(inputs.to(device)), train.labels[batch].to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                logits = self._logits(model.eval(), evaluation, device)
                if not torch.isfinite(logits).all():
                    curve.failed = True
                    break
                # The benchmark takes softmax for multilabel data too.
                probabilities = logits.softmax(dim=-1).float().cpu().numpy()
                score = measure(self.metric, evaluation.labels.cpu().numpy(), probabilities)
                if score > max(curve.scores, default=-1.0):
                    curve.best_probabilities = probabilities
                curve.scores.append(score)
        return curve

    def _fresh_model(self) -> nn.Module:
        classes, width = self.start.shape
        head = nn.Linear(width, classes)
        head.load_state_dict({"weight": self.start, "bias": torch.zeros(classes)})
        norm = nn.BatchNorm1d(width, affine=False)
        if self.clip is None:
            return nn.Sequential(norm, head)
        tower = deepcopy(self.clip.model.visual).requires_grad_(True)
        return nn.Sequential(tower, _Unit(), norm, head)

    @torch.no_grad()
    def _logits(self, model: nn.Module, examples: Examples, device: Any) -> Tensor:
        """Return the logits (N, C) of examples."""
        count = len(examples.labels)
        order = torch.arange(count).split(BATCH_SIZE if self.clip else count)
        return torch.cat([model(part.to(device)) for part in examples.inputs(order)])


class _Unit(nn.Module):
    """Makes features unit vectors."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of one epoch's batches, shuffled; none of a single example, which has no batch
    statistics. The order is that of PyTorch's loader.
    """
    loader: DataLoader[Tensor] = DataLoader(
        range(n),  # type: ignore[arg-type]  # a range is a dataset of indices
        batch_size=BATCH_SIZE,
        shuffle=True,
        generator=generator,
        collate_fn=torch.tensor,
    )
    return (batch for batch in loader if len(batch) > 1)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of logits (B, C) and labels (B,) or, for multilabel data, (B, C)."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def sweep(train_trial: Callable[[Trial], Curve]) -> tuple[Curve, int]:
    """Find the learning rate and weight decay with the best score.

    Of equal scores the trial that was visited first wins. A failed trial never wins.

    Returns:
        The best trial, and how many failed.

    Raises:
        TrainingError: If every trial failed.
    """
    failed = 0
    best: Curve | None = None
    for rate in LEARNING_RATES:
        peak: Curve | None = None
        place, points = 0, list(FIRST_POINTS)
        for step in (*STEPS, 0):  # after the last round none
            for point in points:
                curve = train_trial(Trial(rate, WEIGHT_DECAYS[point]))
                failed += curve.failed
                if not curve.failed and (peak is None or curve.best > peak.best):
                    peak, place = curve, point
            points = [] if peak is None else _neighbours(place, step)
        if peak is not None and (best is None or peak.best > best.best):
            best = peak
    if best is None:
        raise TrainingError(
            f"sweep: the values of all {failed} trials are not finite; look at the features' scale"
        )
    return best, failed


def adapt(
    train_trial: Callable[..., Curve], train: Examples, test: Examples, split: Split
) -> tuple[Curve, int]:
    """Search on the training images, then train the final model and evaluate it on the test images
    after each epoch.

    Args:
        train_trial: Called as a `Trainer`.
        test: All test examples; the search never sees them.

    Returns:
        The final training, and how many trials of the search failed. The leaderboard shows the best
        of its epochs, which tunes on the test images; decisions belong to the last epoch.

    Raises:
        TrainingError: If every trial or the final training fails.
    """
    searched = train.subset(split.search), train.subset(split.held_out)
    found, failed = sweep(lambda trial: train_trial(*searched, trial, epochs=SWEEP_EPOCHS))
    final = train_trial(train.subset(split.final), test, found.trial, epochs=FINAL_EPOCHS)
    if final.failed:
        raise TrainingError(
            f"final training with learning rate {found.trial.learning_rate:g} and weight decay "
            f"{found.trial.weight_decay:g}: values are not finite after {len(final.scores)} of "
            f"{FINAL_EPOCHS} epochs; give a lower learning rate"
        )
    return final, failed


def _neighbours(point: int, step: int) -> list[int]:
    last = len(WEIGHT_DECAYS) - 1
    return [near for near in (max(point - step, 0), min(point + step, last)) if near != point]
