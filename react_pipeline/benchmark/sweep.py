"""The search for learning rate and weight decay, and the final training with what it found (ELEVATER's protocol).

Belongs here: which trials are run, which one wins, and both readings of the final training. Does not belong here: how
a trial trains (`probe` for heads on features, `finetune` for the image tower), the metrics.

Weight decays are a grid of 97 points, eight to a decade. Each learning rate starts with 7 of them, two decades apart,
and then looks 8, 4, 2 and 1 points to both sides of its best. The next step depends on the last one's scores, but the
learning rates do not depend on each other: a round holds the trials of all of them, for a trainer that can train many
at once. Shapes: N images, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from react_pipeline.benchmark.shots import Indices, Split
from react_pipeline.store import TrainingError

LEARNING_RATES = tuple(np.logspace(-6, -1, 6).tolist())
WEIGHT_DECAYS = tuple(np.logspace(-6, 6, 97).tolist())
FIRST_POINTS = tuple(range(0, 97, 16))
STEPS = (8, 4, 2, 1)
SWEEP_EPOCHS, FINAL_EPOCHS = 10, 50

Selection = Literal["best", "last"]
"""Which epoch's score on the held-out images counts in the search: the best, as published, or the last."""


@dataclass(frozen=True)
class Trial:
    """What a trial varies."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Curve:
    """How one trial went.

    Attributes:
        scores: The metric on the evaluated images after each epoch, fractions; shorter if the trial failed.
        failure: Why it failed; "" if it did not.
        best_probabilities: (N, C) after the epoch with the best score (the first of equals), if they were asked for.
        last_probabilities: (N, C) after the last epoch, if they were asked for.
    """

    trial: Trial
    scores: tuple[float, ...]
    failure: str = ""
    best_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)
    last_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)
    n_trainable: int = 0

    def score(self, selection: Selection) -> float:
        """Of the best or of the last epoch; 0 for a trial that failed, even if it failed late."""
        if self.failure:
            return 0.0
        return max(self.scores) if selection == "best" else self.scores[-1]


class Examples(Protocol):
    """Labelled examples of any kind."""

    def subset(self, indices: Indices) -> Self:
        """Those at `indices`, in that order."""
        ...


E = TypeVar("E", bound=Examples, contravariant=True)


class TrainTrials(Protocol[E]):
    """Trains a fresh model for each trial and evaluates it after each epoch."""

    def __call__(
        self, train: E, evaluation: E, trials: Sequence[Trial], *, epochs: int, keep_probabilities: bool
    ) -> list[Curve]:
        """One curve a trial, in their order."""
        ...


class RunRound(Protocol):
    """Trains the trials of a round."""

    def __call__(self, trials: Sequence[Trial]) -> list[Curve]:
        """One curve a trial, in their order."""
        ...


@dataclass(frozen=True)
class SweepResult:
    """What a search found.

    Attributes:
        score: Its score on the held-out images.
        curves: Every trial, in the order of the rounds.
        failures: Why trials failed, and how many for each reason.
    """

    best: Trial
    score: float
    curves: tuple[Curve, ...]
    failures: dict[str, int]


@dataclass(frozen=True)
class Adaptation:
    """A model adapted to a dataset, read by two protocols from the same final training.

    `elevater` is what the leaderboard shows: the best of all epochs on the test images, which tunes on them. `clean` is
    the last epoch. Decisions belong to `clean`; `elevater` is there to compare with published numbers.

    Attributes:
        trial: The final training's learning rate and weight decay.
        search: How they were found; None if they were given.
        final: The final training, with its scores on the test images.
    """

    trial: Trial
    search: SweepResult | None
    final: Curve

    @property
    def elevater(self) -> float:
        """The best epoch's metric on the test images, a fraction."""
        return self.final.score("best")

    @property
    def clean(self) -> float:
        """The last epoch's metric on the test images, a fraction."""
        return self.final.score("last")


def sweep(
    run_round: RunRound,
    *,
    selection: Selection = "best",
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    first_points: Sequence[int] = FIRST_POINTS,
    steps: Sequence[int] = STEPS,
) -> SweepResult:
    """Find the learning rate and weight decay with the best score.

    Of equal scores the trial that was visited first wins: within a round the lower weight decay, between rounds the
    earlier one, between learning rates the lower one. A failed trial never wins.

    Args:
        run_round: Trains the trials of a round; called once a round.
        learning_rates: In ascending order.
        first_points: Indices into the grid where each learning rate starts.
        steps: Distances, in grid points, from the best so far to the next two.

    Raises:
        TrainingError: If every trial failed.
    """
    curves: list[Curve] = []
    peaks: list[tuple[float, int] | None] = [None] * len(learning_rates)

    def visit(points: list[list[int]]) -> None:
        """Try `points[i]` with learning rate i, all in one round."""
        places = [(position, point) for position, chosen in enumerate(points) for point in chosen]
        trials = [Trial(learning_rates[position], weight_decays[point]) for position, point in places]
        finished = run_round(trials) if trials else []
        curves.extend(finished)
        for (position, point), curve in zip(places, finished, strict=True):
            peak, score = peaks[position], curve.score(selection)
            if not curve.failure and (peak is None or score > peak[0]):
                peaks[position] = (score, point)

    visit([list(first_points) for _ in learning_rates])
    for step in steps:
        visit([_neighbours(peak[1], step, last=len(weight_decays) - 1) if peak else [] for peak in peaks])
    failures = dict(Counter(curve.failure for curve in curves if curve.failure))
    found = [(*peak, learning_rate) for peak, learning_rate in zip(peaks, learning_rates, strict=True) if peak]
    if not found:
        raise TrainingError(f"search: all {len(curves)} trials failed ({failures}); look at the features' scale")
    # The first of equal scores, which has the lowest learning rate.
    score, point, learning_rate = max(found, key=lambda entry: entry[0])
    return SweepResult(Trial(learning_rate, weight_decays[point]), score, tuple(curves), failures)


def adapt(
    train_trials: TrainTrials[Any],
    train: Any,
    test: Any,
    split: Split,
    *,
    trial: Trial | None = None,
    selection: Selection = "best",
    search_epochs: int = SWEEP_EPOCHS,
    final_epochs: int = FINAL_EPOCHS,
) -> Adaptation:
    """Search on the training images, then train the final model and evaluate it on the test images after each epoch.

    Args:
        test: All test examples; the search never sees them.
        trial: Learning rate and weight decay, if they are known; then nothing is searched.

    Raises:
        TrainingError: If every trial or the final training fails.
    """
    found: SweepResult | None = None
    if trial is None:
        searched, held_out = train.subset(split.search), train.subset(split.held_out)

        def run_round(trials: Sequence[Trial]) -> list[Curve]:
            return train_trials(searched, held_out, trials, epochs=search_epochs, keep_probabilities=False)

        found = sweep(run_round, selection=selection)
        trial = found.best
    final = train_trials(train.subset(split.final), test, [trial], epochs=final_epochs, keep_probabilities=True)[0]
    if final.failure:
        raise TrainingError(
            f"final training with learning rate {trial.learning_rate:g} and weight decay {trial.weight_decay:g}: "
            f"{final.failure} after {len(final.scores)} of {final_epochs} epochs; give a lower learning rate"
        )
    return Adaptation(trial, found, final)


def _neighbours(point: int, step: int, *, last: int) -> list[int]:
    return [near for near in (max(point - step, 0), min(point + step, last)) if near != point]
