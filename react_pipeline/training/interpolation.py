"""Interpolation: points on the line between the base and a trained model, and the choice of one of
them.

Does not belong here: what the points are judged by (`held_out`), the line of gates
(`methods.gated_image`).

Source: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): a point between the weights before and
after a training often keeps what both know, and costs nothing at inference. New modules change no
feature where the training begins, so their weights there are the base too.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from react_pipeline.store import InputError, TrainingError

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions that `interpolation: held-out` tries: from the base to the trained model."""


def require_held_out(setting: float | str, held_out: int, pairs: int) -> None:
    """Refuse to choose by held-out pairs where there are none.

    Raises:
        InputError: Naming the setting.
    """
    if setting == "held-out" and not held_out:
        raise InputError(
            f"customization.interpolation: held-out needs held-out pairs, and of {pairs} pairs "
            "none is held out; raise held_out_fraction, or give interpolation a number"
        )


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters as they are now, by name: copies on the CPU of those that train, the
    others themselves.
    """
    return {
        name: parameter.detach().cpu().clone() if parameter.requires_grad else parameter
        for name, parameter in model.named_parameters()
    }


def line(model: nn.Module, start: Mapping[str, Tensor]) -> Callable[[float], None]:
    """Return a function that moves a trained model to start + fraction * (trained - start): 0 and 1
    give either end's features bit for bit.

    Args:
        model: The trained model. Its parameters will be moved, its buffers never.
        start: Weights before the training, as `copy_of_weights` gives them. Others stay.
    """
    moved = [
        (parameter, start[name], parameter.detach().clone())
        for name, parameter in model.named_parameters()
        if name in start and not torch.equal(parameter.detach(), start[name].to(parameter))
    ]

    @torch.no_grad()
    def move_to(fraction: float) -> None:
        for parameter, before, trained in moved:
            parameter.copy_(torch.lerp(before.to(trained), trained, fraction))  # exact at both ends

    return move_to


def choose_fraction(
    setting: float | str,
    score: Callable[[float], float],
    grid: Sequence[float] = GRID,
    tie: Callable[[Iterable[float]], float] = max,
) -> tuple[float, dict[float, float]]:
    """Return the fraction that is set, or for `held-out` the best one of `grid`, and the score of
    each that was tried.

    Args:
        score: The larger the better. Measure it on held-out pairs: chosen on the evaluation set, a
            fraction would be fitted to what it is judged by.
        tie: Which of equally good fractions wins: `max` is nearest to the training, `min` to the
            base.

    Raises:
        TrainingError: If no score is finite.
    """
    if setting != "held-out":
        return float(setting), {}
    scores = {fraction: score(fraction) for fraction in grid}
    finite = {fraction: value for fraction, value in scores.items() if math.isfinite(value)}
    if not finite:
        raise TrainingError(
            f"no interpolation of the training has a finite score ({scores}); lower learning_rate"
        )
    best = max(finite.values())
    return tie(fraction for fraction, value in finite.items() if value == best), scores
