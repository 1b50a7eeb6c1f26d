"""The training of one method on one set of pairs: prepare, then step, log, guard and keep.

Source of the recipe: REACT (arXiv 2301.07094). Does not belong here: what is computed once
(`preparation`), one step (`step`).
"""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from react_pipeline.clip import Clip
from react_pipeline.training.customization import Customization
from react_pipeline.training.guards import (
    LESS_MEMORY,
    explained_out_of_memory,
    require_no_collapse,
    require_trained,
)
from react_pipeline.training.held_out import choose_fraction
from react_pipeline.training.log import TrainingLog
from react_pipeline.training.methods import ModelMethod
from react_pipeline.training.preparation import Preparation, prepare
from react_pipeline.training.resume import resume, save_state

PROBED_PAIRS = 256
"""Held-out pairs whose recall is measured at each checkpoint; before and after it is that of all.
"""


def train_model(method: ModelMethod, customization: Customization, clip: Clip) -> dict[str, Any]:
    """Train the method's part of `clip` in place; return the counts of the manifest.

    Every process of the world calls this alike. The one that writes leaves a line a step in
    `metrics.jsonl`, and notifies the observer.

    Args:
        clip: The base, on the world's device, which a frozen text tower leaves.

    Raises:
        InputError: If the batch does not divide among the processes, or the loss does not suit
            the model.
        RetrievalError: If there are fewer than two pairs to train on.
        TrainingError: If a guard stops it or memory runs out. States of the last good steps
            stay in the scratch.
    """
    began = time.monotonic()
    prepared = prepare(method, customization, clip)
    state, steps, pairs = prepared.step.state, prepared.counts["steps"], len(prepared.held_out)
    before, probed = prepared.recall(), prepared.recall(PROBED_PAIRS)
    resume(state, customization.scratch, customization.world)
    first_step, began = state.step, began - state.seconds  # of the tries before a kill
    counts = _take_steps(customization, prepared, probed, began)
    require_trained(state.trained.values(), state.skipped[0], steps)
    # Judged before it is interpolated: going back to the base would hide a collapse.
    after = prepared.recall()
    require_no_collapse(steps, before, after, pairs)
    fraction, scores = _interpolate(prepared)
    return {
        **prepared.counts,
        **counts,
        "first_step": first_step,
        "skipped_steps": state.skipped[0],
        "held_out_before": before,
        "held_out_after": after if fraction == 1 else prepared.recall(),
        "interpolation": fraction,
        "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
        # With what was computed once (captions, frozen part).
        "seconds": round(time.monotonic() - began, 3),
    }


def _take_steps(
    customization: Customization,
    prepared: Preparation,
    probed: Mapping[str, float],
    began: float,
) -> dict[str, Any]:
    """Take all steps that are left; return speed, memory, and the first and the last loss.

    Args:
        probed: Recall of the base on the first `PROBED_PAIRS` held-out pairs.
    """
    c, p, batches, state = customization, prepared, prepared.batches, prepared.step.state
    training, size = batches.training, batches.size
    steps = range(state.step, training.steps)
    with (
        TrainingLog(c, steps, size, state.log) as log,
        closing(batches.stream(steps)) as stream,
    ):
        for step in steps:
            started = time.monotonic()
            batch = next(stream)
            waited = time.monotonic() - started
            with explained_out_of_memory(f"with batch_size {size}: {p.fits}", LESS_MEMORY):
                values = p.step.take(step, batch, batches.pairs(step))
            seconds = time.monotonic() - started
            log.add(step, values, waited=waited, seconds=seconds)
            if (step + 1) % training.checkpoint_every == 0:
                # Nothing is kept before it is known to be good.
                pairs = len(p.held_out[:PROBED_PAIRS])
                require_no_collapse(step + 1, probed, p.recall(PROBED_PAIRS), pairs)
                if c.world.is_writer:
                    state.step, state.seconds = step + 1, time.monotonic() - began
                    save_state(state.content(), c.scratch)
        return log.counts()


def _interpolate(prepared: Preparation) -> tuple[float, dict[float, float]]:
    """Move the model along its line to the point that `choose_fraction` chooses."""
    move_to = prepared.line()

    def score(fraction: float) -> float:
        move_to(fraction)
        recall = prepared.recall()
        return sum(recall.values()) / len(recall)

    fraction, scores = choose_fraction(prepared.batches.training.interpolation, score)
    move_to(fraction)
    return fraction, scores
