"""Advice: expected gain, price and verdict of each method on a domain, and what to run next.

Does not belong here: the signs (`signs`), the regression (`forecast`), printing (`commands`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from react_pipeline.corpus import CorpusSize
from react_pipeline.extensions.advise.forecast import (
    Calibration,
    Forecast,
    Measurements,
    forecast,
)
from react_pipeline.extensions.advise.signs import Signs
from react_pipeline.extensions.plan import Machine, Sums
from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, method_key


@dataclass(frozen=True)
class HeldOut:
    """What a method and its control gained over the base on held-out pairs, as fractions."""

    own: float
    control: float

    @property
    def lost(self) -> bool:
        """Whether the control gained as much."""
        return self.own <= self.control


@dataclass(frozen=True)
class Option:
    """What is known of one method before it is trained.

    Attributes:
        expected: None: the method was measured nowhere.
        held_out: None: there are no such numbers.
        seconds: Of one training on this machine.
        memory: Bytes of weights, gradients and optimizer, or of the vectors of a head; activations
            are not counted.
    """

    method: str
    expected: Forecast | None
    calibration: Calibration | None
    held_out: HeldOut | None
    seconds: float
    memory: float


def options_of(project: Project, slug: str, signs: Signs, measured: Measurements) -> list[Option]:
    """The methods of the project and the measured ones, the one that is surest to gain first."""
    table = project.config.all_methods
    names = [
        name
        for name, method in table.items()
        if name != "base"
        and not method.is_control
        and (name in measured.calibrations or name in project.config.methods)
    ]
    prices = _prices(project, slug, signs, names)
    options = [
        Option(
            name,
            forecast(measured.domains, name, signs.values),
            measured.calibrations.get(name, (None, None))["nearness" in signs.values],
            _held_out(project, slug, name, signs),
            *prices[name],
        )
        for name in names
    ]
    return sorted(options, key=lambda option: -_sure(option))


def _sure(option: Option) -> float:
    """The lower end of the interval: a high gain that few domains speak for is no reason."""
    return -np.inf if option.expected is None else option.expected.low


def recommended(options: Sequence[Option]) -> Option | None:
    """The method that is surest to gain, of those that are expected to gain and did not lose to
    their control; None if there is none.
    """
    good = [
        option
        for option in options
        if option.expected is not None
        and option.expected.expected > 0
        and not (option.held_out and option.held_out.lost)
    ]
    return max(good, key=_sure, default=None)


def next_command(project: Project, slug: str, option: Option) -> str:
    """The command that trains and measures a method beside its control."""
    words = ["react-pipeline", "materialize", "--config", str(project.path), "--domain", slug]
    for method in ("base", option.method, option.method + CONTROL_SUFFIX):
        words += ["--method", method]
    return shlex.join(words)


def _held_out(project: Project, slug: str, method: str, signs: Signs) -> HeldOut | None:
    """Of a head that was tried here, or of both checkpoints, if they are published."""
    if tried := signs.tried.get(method):
        return HeldOut(tried.own - tried.base, tried.control - tried.base)
    gains = []
    for name in (method, method + CONTROL_SUFFIX):
        checkpoint = fresh_or_none(project, CUSTOMIZED_CHECKPOINT, method_key(slug, name))
        before, after = (
            {} if checkpoint is None else checkpoint.counts.get(f"held_out_{when}") or {}
            for when in ("before", "after")
        )
        if not before or before.keys() != after.keys():
            return None
        gains.append(_mean(after) - _mean(before))
    return HeldOut(*gains)


def _mean(scores: Mapping[str, float]) -> float:
    return float(np.mean(list(scores.values())))


def _prices(
    project: Project, slug: str, signs: Signs, methods: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Seconds and bytes of memory of one training of each method, by the sums of `plan`."""
    look = Manifests.of(project)
    rows = int(fresh(look, "corpus_embeddings").counts["rows"])
    sums = Sums(look, Machine.here(project.config.store), CorpusSize.of(look, rows))
    weights = sums.processor.encoder.weights_bytes
    dimension, pairs = signs.samples.images.shape[1], len(signs.samples.images)
    of_head = weights + 8 * dimension * (pairs + len(signs.samples.prompts) + 3 * dimension)
    prices = {}
    for name in methods:
        sums.keys[CUSTOMIZED_CHECKPOINT] = [method_key(slug, name)]
        step = sums.trainings_step()
        hours = step.cpu_hours if step.gpu_hours is None else step.gpu_hours
        # Weights, gradients and two moments, at most of all weights.
        memory = 4 * weights if project.method(name).has_model else of_head
        prices[name] = (3_600 * hours, float(memory))
    return prices
