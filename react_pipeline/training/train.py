"""The training of one method on one set of pairs: prepare, then step, log, guard and keep.

Source of the recipe: REACT (arXiv 2301.07094). Does not belong here: what is computed once
(`preparation`), one step (`step`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.clip import Clip
from react_pipeline.training.customization import Customization
from react_pipeline.training.guards import (
    LESS_MEMORY,
    explained_out_of_memory,
    require_no_collapse,
    require_trained,
)
from react_pipeline.training.interpolation import choose_fraction
from react_pipeline.training.log import METRICS_FILE, TrainingLog
from react_pipeline.training.preparation import Preparation, prepare
from react_pipeline.training.resume import Resumed, TrainingState, resume, save_state
from react_pipeline.training.step import TrainingStep

if TYPE_CHECKING:
    from react_pipeline.training.methods.model_method import ModelMethod

PROBED_PAIRS = 256
"""Held-out pairs whose recall is measured at each checkpoint; before and after it is that of all.
"""


def train_model(
    method: ModelMethod, customization: Customization, clip: Clip, weights: Path | None = None
) -> dict[str, Any]:
    """Train the method's part of `clip` in place; return the counts of the manifest.

    Every process of the world calls this alike. The one that writes leaves a line a step in
    `metrics.jsonl`, and notifies the observer.

    Args:
        clip: The base, on the world's device.
        weights: The base's safetensors. Given, a frozen text tower leaves the memory once its
            vectors are there.

    Raises:
        InputError: If the batch does not divide among the processes, or the loss does not suit
            the model.
        RetrievalError: If there are fewer than two pairs to train on.
        TrainingError: If a guard stops it or memory runs out. States of the last good steps
            stay in the scratch.
    """
    began = time.monotonic()
    prepared = prepare(method, customization, clip, weights)
    base_recall = prepared.recall()
    base_probe = prepared.recall(PROBED_PAIRS)
    state = prepared.initial_state()
    resumed = resume(state, customization.scratch, customization.world)
    began -= resumed.seconds  # of the tries before a kill
    log = _take_steps(method, customization, prepared, state, resumed, base_probe, began)
    require_trained(state.trained.values(), state.skipped_steps, prepared.training.steps)
    # Judged before it is interpolated: going back to the base would hide a collapse.
    recall = prepared.recall()
    require_no_collapse(prepared.training.steps, base_recall, recall, len(prepared.held_out))
    fraction, scores = _interpolate(method, prepared)
    return {
        **prepared.counts,
        **log,
        "first_step": resumed.step,
        "skipped_steps": state.skipped_steps,
        "held_out_before": base_recall,
        "held_out_after": recall if fraction == 1 else prepared.recall(),
        "interpolation": fraction,
        "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
        # With what was computed once (captions, frozen part).
        "seconds": round(time.monotonic() - began, 3),
    }


def _take_steps(
    method: ModelMethod,
    customization: Customization,
    prepared: Preparation,
    state: TrainingState,
    resumed: Resumed,
    base_probe: Mapping[str, float],
    began: float,
) -> dict[str, Any]:
    """Take all steps that are left; return speed, memory, and the first and the last loss."""
    world = customization.world
    observer = customization.observer
    training = prepared.training
    batch_size = prepared.batches.batch_size
    steps = range(resumed.step, training.steps)
    if world.is_writer:
        observer.started(customization.inputs, resumed.step)
    watched = partial(method.watched, prepared.encoder.model)
    training_step = TrainingStep(
        prepared.encoder, prepared.texts, state, method.loss, prepared.max_log_scale, watched
    )
    batches = prepared.batches.stream(steps, prepared.tokens)
    metrics = None if customization.staging is None else customization.staging / METRICS_FILE
    title = f"training {method.name}"
    log = TrainingLog(metrics, observer, steps, batch_size, world.device, title, resumed.log)
    with log, closing(batches):
        for step in steps:
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started
            with explained_out_of_memory(f"with batch_size {batch_size}", LESS_MEMORY):
                texts = prepared.texts.draw(step, prepared.batches.drawn(step)[0])
                kept = prepared.tokens is not None
                values = training_step.take(step, batch, texts, from_tokens=kept)
            seconds = time.monotonic() - started
            if prepared.probe and (step + 1) % training.evaluate_every == 0:
                values |= prepared.probe(prepared.encoder)
            log.add(step, values, waited=waited, seconds=seconds)
            if (step + 1) % training.checkpoint_every == 0:
                # Nothing is kept before it is known to be good.
                probed = len(prepared.held_out[:PROBED_PAIRS])
                require_no_collapse(step + 1, base_probe, prepared.recall(PROBED_PAIRS), probed)
                if world.is_writer:
                    content = state.content(step + 1, time.monotonic() - began, log.text())
                    save_state(content, customization.scratch)
        losses = log.losses()
    if prepared.tokens is None:
        log.warn_of_waiting(training.worker_count)
    ends = (losses[0], losses[-1]) if losses else (None, None)
    return {**log.counts(), "first_loss": ends[0], "final_loss": ends[1]}


def _interpolate(method: ModelMethod, prepared: Preparation) -> tuple[float, dict[float, float]]:
    """Move the model along its line to the point that `choose_fraction` chooses."""
    setting = prepared.training.interpolation
    if setting == 1:
        return 1.0, {}
    move_to = method.line(prepared.encoder.model, prepared.start, prepared.base_names)

    def score(fraction: float) -> float:
        move_to(fraction)
        recall = prepared.recall()
        return sum(recall.values()) / len(recall)

    fraction, scores = choose_fraction(setting, score)
    move_to(fraction)
    return fraction, scores
