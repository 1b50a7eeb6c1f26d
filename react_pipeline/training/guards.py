"""Guards: when a training must stop, before a bad step is taken or a bad model published."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from react_pipeline.clip import free_bytes, is_out_of_memory
from react_pipeline.store import InputError, TrainingError

LESS_MEMORY = (
    "raise customization.accumulation, or set activation_checkpointing to true (same result, less "
    "memory), or lower batch_size"
)
"""What helps where a step does not fit the memory."""

MAX_SCALE_STEP = 0.5
"""A step that moves the logarithm of the logit scale by more than this has exploded; thousandths
are usual.
"""

MAX_SKIPPED_STEPS = 30
"""Skipped steps in a row that are allowed. The scaler of fp16 starts at 65,536 and halves at each
skip: by then it is below any useful scale.
"""

COLLAPSED_SHARE, STANDARD_ERRORS = 0.5, 3.0
"""Held-out recall below this share of the base's is a collapse, if it is also this many standard
errors of the difference below, so that chance on few pairs stops nothing."""


@contextmanager
def explained_out_of_memory(where: str, advice: str) -> Iterator[None]:
    """Explain out-of-memory errors, on a GPU or a CPU: "out of memory `where`; `advice`".

    Raises:
        TrainingError: In place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory {where}; {advice}") from error


def require_memory(part: int, pair_bytes: int, state_bytes: int, device: str) -> str:
    """Refuse a part of a batch that does not fit; return in words how many pairs do.

    Args:
        part: Pairs that a process encodes at once.
        pair_bytes: Of each.
        state_bytes: What the first step leaves whatever the batch: gradients and moments.

    Raises:
        InputError: Naming the bytes and the pairs that fit.
    """
    free = max(0, free_bytes(device) - state_bytes)
    fits = f"about {free // max(1, pair_bytes):,} pairs fit at once, of {pair_bytes:,} bytes each"
    if part * pair_bytes > free:
        raise InputError(
            f"customization.batch_size: {part:,} pairs at once need {part * pair_bytes:,} bytes of "
            f"memory, and {device} has {free:,}; {fits}: raise accumulation, or lower batch_size"
        )
    return fits


def require_finite(step: int, name: str, value: float) -> None:
    """Stop where a loss or a gradient is not finite.

    Raises:
        TrainingError: Naming the value and the step.
    """
    if not math.isfinite(value):
        raise TrainingError(
            f"the {name} is {value} at step {step}; lower learning_rate, lengthen warmup_steps, or "
            "use another precision where the method has one. Nothing was published"
        )


def require_steady_scale(step: int, before: float, after: float) -> None:
    """Stop where one step throws the logit scale (its logarithm) far away, or down to 1, where all
    pairs look alike.

    Raises:
        TrainingError: If it moved by more than `MAX_SCALE_STEP`, fell to 0 (a scale of 1), or is
            not finite.
    """
    if not abs(after - before) <= MAX_SCALE_STEP or after <= 0 < before:
        raise TrainingError(
            f"the logit scale exploded at step {step}, or fell to 1: its logarithm went from "
            f"{before:.3g} to {after:.3g}; lower learning_rate. Nothing was published"
        )


def require_steps_taken(step: int, skipped: int) -> None:
    """Stop where the loss scaler of fp16 has skipped so many steps one after another that it finds
    no scale.

    Raises:
        TrainingError: If more than `MAX_SKIPPED_STEPS` steps in a row were skipped.
    """
    if skipped > MAX_SKIPPED_STEPS:
        raise TrainingError(
            f"the gradient was not finite in {skipped} steps in a row, up to step {step}, at any "
            "loss scale of fp16; use precision bf16 or fp32, or lower learning_rate. Nothing was "
            "published"
        )


def require_no_collapse(
    step: int, base: Mapping[str, float], now: Mapping[str, float], pairs: int
) -> None:
    """Stop where a recall of held-out pairs is below half of the base's, and not by chance.

    Args:
        base: Recall of the base, as `held_out.image_text_recall` gives it.
        pairs: How many pairs it was measured on.

    Raises:
        TrainingError: Naming the recall before and now.
    """
    for name, before in base.items():
        # Two hits more in four more pairs (Agresti and Coull): recalls of exactly 0 and 1 are no
        # certainties then.
        shares = [(pairs * recall + 2) / (pairs + 4) for recall in (before, now[name])]
        deviation = math.sqrt(sum(share * (1 - share) for share in shares) / (pairs + 4))
        fell = now[name] < COLLAPSED_SHARE * before
        if fell and shares[0] - shares[1] > STANDARD_ERRORS * deviation:
            raise TrainingError(
                f"the model collapsed by step {step}: {name} of {pairs} held-out pairs fell from "
                f"{before:.1%} (base) to {now[name]:.1%}; lower learning_rate. Nothing was "
                "published"
            )


def require_trained(weights: Iterable[Tensor], skipped: int, steps: int) -> None:
    """Refuse weights that are not finite, or that no step has changed.

    Args:
        skipped: How many of all `steps` the scaler of fp16 has skipped.

    Raises:
        TrainingError: Saying which, and what to change.
    """
    if skipped == steps:
        raise TrainingError(
            "the loss scaler of fp16 skipped every step, so nothing was trained; take more "
            "steps, or precision bf16 or fp32. Nothing was published"
        )
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise TrainingError(
            "trained weights are not finite; lower learning_rate. Nothing was published"
        )
