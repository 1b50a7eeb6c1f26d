"""Interpolation: points on the line between the base and a trained model, and the choice of one of
them.

Does not belong here: what the points are judged by (`held_out`), the line between two classifiers
(`linear_head`).

Source: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): a point between the weights before and
after a training often keeps what both know, and costs nothing at inference. New gated blocks have
no weights in the base; there the line is tanh(gate), which is 0 in the base. Gated blocks that the
base has itself are weights like any other.
"""

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from react_pipeline.clip import gated_layers, scale_gates
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


def copy_of_base(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """The parameters of these names as they are now: copies on the CPU of those that train, the
    others themselves.
    """
    return {
        name: parameter.detach().cpu().clone() if parameter.requires_grad else parameter
        for name, parameter in model.named_parameters()
        if name in names
    }


class Line:
    """The line from the base (0) to a trained model (1), and the model that moves along it."""

    def __init__(self, model: nn.Module, base: Mapping[str, Tensor]) -> None:
        """Keep the trained weights that differ from the base's; the model stays where it is.

        Args:
            model: The trained model. Its parameters will be moved, its buffers never.
            base: Weights before the training, by the names of `named_parameters`, as `copy_of_base`
                gives them.
        """
        named = dict(model.named_parameters())
        self._moved = [
            (parameter, base[name], parameter.detach().clone())
            for name, parameter in named.items()
            if name in base and not torch.equal(parameter.detach(), base[name].to(parameter))
        ]
        new = {id(parameter) for name, parameter in named.items() if name not in base}
        self._new = [block for block in gated_layers(model).values() if id(block.alpha_attn) in new]
        gates = [gate for block in self._new for gate in (block.alpha_attn, block.alpha_dense)]
        self._gates = [(gate, gate.detach().clone()) for gate in gates]

    @torch.no_grad()
    def move_to(self, fraction: float) -> None:
        """Move the model to base + fraction * (trained - base): 0 and 1 give either end's features
        bit for bit.

        The gates of new gated blocks are scaled and the blocks' other weights stay; all else that
        differs from the base, as the logit scale, moves as in any method.
        """
        for parameter, start, trained in self._moved:
            parameter.copy_(torch.lerp(start.to(trained), trained, fraction))  # exact at both ends
        for gate, trained in self._gates:
            gate.copy_(trained)
        if fraction < 1:
            scale_gates(self._new, fraction)


def interpolate(
    model: nn.Module, base: Mapping[str, Tensor], setting: float | str, score: Callable[[], float]
) -> tuple[float, dict[float, float]]:
    """Move a trained model to the point of its line that `choose` chooses, and leave it there.

    Args:
        base: As for `Line`; not looked at if `setting` is 1.
        score: Of the model where it stands.
    """
    if setting == 1:
        return 1.0, {}
    line = Line(model, base)

    def score_at(fraction: float) -> float:
        line.move_to(fraction)
        return score()

    fraction, scores = choose(setting, score_at)
    line.move_to(fraction)
    return fraction, scores


def choose(
    setting: float | str, score: Callable[[float], float]
) -> tuple[float, dict[float, float]]:
    """The fraction that is set, or for `held-out` the best one of `GRID`, and the score of each
    that was tried.

    Of equally good ones the larger wins, which is nearer to the training.

    Args:
        score: The larger the better. Measure it on held-out pairs: chosen on the evaluation set, a
            fraction would be fitted to what it is judged by.

    Raises:
        TrainingError: If no score is finite.
    """
    if setting != "held-out":
        return float(setting), {}
    scores = {fraction: score(fraction) for fraction in GRID}
    finite = {fraction: value for fraction, value in scores.items() if math.isfinite(value)}
    if not finite:
        raise TrainingError(
            f"no interpolation of the training has a finite score ({scores}); lower learning_rate"
        )
    return max(finite, key=lambda fraction: (finite[fraction], fraction)), scores
