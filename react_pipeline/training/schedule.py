"""The pure parts of training: learning rate, order of the data. No state, so that a resumed run
repeats them.

Shapes: B pairs of a batch.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, RetrievalError

MAX_LOG_SCALE = math.log(100)
"""The logit scale is clamped to [0, ln 100] after every step, as in CLIP."""

NOT_DECAYED = ("bn", "ln", "bias", "logit_scale")
"""Parts of the names of weights without decay."""


def learning_rate(step: int, training: TrainingConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine to zero (REACT's schedule);
    `step` counts from 0.
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def max_log_scale(loss: str, base: float) -> float:
    """Return where the logit scale's logarithm is clamped: CLIP's limit, or with `sigmoid` the
    base's own if higher.
    """
    return max(MAX_LOG_SCALE, base) if loss == "sigmoid" else MAX_LOG_SCALE


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Return AdamW groups of the trained parameters: no decay for vectors, scalars, norms, biases
    and the logit scale.
    """
    groups: dict[float, list[nn.Parameter]] = {weight_decay: [], 0.0: []}
    for name, parameter in named:
        is_exempt = parameter.ndim < 2 or any(word in name for word in NOT_DECAYED)
        groups[0.0 if is_exempt else weight_decay].append(parameter)
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items()]


def batch_at(step: int, pairs: int, batch_size: int, seed: int) -> Tensor:
    """Return the positions (B,) of the pairs of one step: every epoch a new order, its incomplete
    last batch left out.

    A function of the step alone: nothing needs to be stored to resume.
    """
    epoch, within = divmod(step, pairs // batch_size)
    return _epoch_order(pairs, seed, epoch)[within * batch_size : (within + 1) * batch_size]


@lru_cache(maxsize=2)
def _epoch_order(pairs: int, seed: int, epoch: int) -> Tensor:
    # Shuffling millions of pairs takes a good part of a second, and every step of the epoch asks
    # for it.
    return torch.randperm(pairs, generator=generator(seed, 1, epoch))


def fit_batch_size(training: TrainingConfig, pairs: int, processes: int) -> int:
    """Pairs of a step over all processes: at most all of them, and as many in each process.

    Raises:
        InputError: If the configured batch does not divide among the processes.
        RetrievalError: If there are too few pairs to contrast.
    """
    if pairs < 2:
        raise RetrievalError(f"{pairs} pairs to train on; contrastive training needs two at least")
    if training.batch_size % processes:
        raise InputError(
            f"customization.batch_size {training.batch_size} does not divide among {processes} "
            "processes"
        )
    size = min(training.batch_size, pairs)
    size -= size % processes
    if size < 2 * processes:
        raise RetrievalError(
            f"{pairs} pairs are too few for {processes} processes; set customization processes to 1"
        )
    return size


def generator(*numbers: int) -> torch.Generator:
    """Return a random generator that depends on these numbers alone."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(mixed)
