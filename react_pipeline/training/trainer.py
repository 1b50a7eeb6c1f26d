"""The training of one method on one set of pairs: what is computed once, the loop, what it records.

Source of the recipe: REACT (arXiv 2301.07094). Shapes: B pairs of a batch, N pairs, V views, T
tokens, W width, D embedding dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from react_pipeline.clip import (
    Clip,
    ImageTower,
    Pixels,
    choose_precision,
    device_counts,
    map_weights,
    text_parameters,
    trains_images,
    trains_text,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Inputs, Scratch, TrainingError
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.batches import TrainingBatches
from react_pipeline.training.data import Views
from react_pipeline.training.guards import (
    LESS_MEMORY,
    explained_out_of_memory,
    require_no_collapse,
)
from react_pipeline.training.held_out import image_text_recall, split_held_out
from react_pipeline.training.image_encoder import ENCODED_AT_ONCE, ImageEncoder
from react_pipeline.training.interpolation import choose_fraction, copy_of_weights, require_held_out
from react_pipeline.training.kept_tokens import FusibleTower, keep_tokens, may_keep
from react_pipeline.training.log import TrainingLog
from react_pipeline.training.losses import require_suitable
from react_pipeline.training.observer import TrainingObserver
from react_pipeline.training.resume import (
    StateWriter,
    TrainingState,
    load_newest_state,
    remove_states_after,
)
from react_pipeline.training.schedule import max_log_scale, parameter_groups
from react_pipeline.training.step import TrainingStep
from react_pipeline.training.texts import TrainingTexts
from react_pipeline.training.world import World

if TYPE_CHECKING:
    from react_pipeline.training.methods.model_method import ModelMethod

Probe = Callable[[ImageEncoder], Mapping[str, float]]
"""Measures a model in training, in every process, for the log alone: nothing depends on it."""

COMPARED_IMAGES = 16
"""Images whose features are compared with the base's before the first step."""

PROBED_PAIRS = 256
"""Held-out pairs whose recall is measured at each checkpoint; before and after it is that of all.
"""


class Trainer:
    """One training, in each of its processes. `run` leaves the trained model in `clip`."""

    def __init__(
        self,
        clip: Clip,
        pairs: CollectedPairs,
        domain: DomainConfig,
        method: ModelMethod,
        training: TrainingConfig,
        world: World,
        scratch: Scratch,
        metrics: Path | None,
        weights: Path | None = None,
        find_probe: Callable[[], Probe | None] = lambda: None,
    ) -> None:
        """Attach what the method trains, and compute once what stays frozen.

        Args:
            clip: The base, on the world's device.
            scratch: The same folder in all processes.
            metrics: File of the log; None in processes that do not write.
            weights: The base's safetensors. Given, a frozen text tower leaves the memory once its
                vectors are there.
            find_probe: Called before that, if the configuration asks for measurements.

        Raises:
            InputError: If the batch does not divide among the processes, or the loss does not suit
                the model.
            RetrievalError: If there are fewer than two pairs to train on.
        """
        self.began = time.monotonic()
        self.clip = clip
        self.model: Any = clip.model
        self.method = method
        self.world = world
        self.scratch = scratch
        self.metrics = metrics
        self.weights = weights
        require_suitable(training.loss, self.model)
        self.trained_on, self.held_out = split_held_out(
            pairs, training.held_out_fraction, training.seed
        )
        require_held_out(training.interpolation, len(self.held_out), len(pairs))
        self.views = _views(clip, pairs, training)
        self.batches = TrainingBatches(self.trained_on, self.views, training, world)
        self.training = training = self._settled(training)
        self.base_names = {name for name, _ in self.model.named_parameters()}
        self.step0_max_difference = self._attach()
        text_trains = trains_text(self.model)
        self.texts = TrainingTexts(clip, pairs, domain, training, world, text_trains, scratch)
        self.probe = find_probe() if training.evaluate_every else None
        if weights is not None and not text_trains:
            map_weights(self.model, text_parameters(self.model), weights)
        # Needed only when weights are interpolated with the base.
        self.start = {} if training.interpolation == 1 else copy_of_weights(self.model)
        # Of the base, not of a state that is resumed from.
        self.max_log_scale = max_log_scale(training.loss, self.model.logit_scale.item())
        self.encoder = ImageEncoder(self.model, self._tower(), training, world)
        self.tokens = self._kept_tokens()

    def _settled(self, training: TrainingConfig) -> TrainingConfig:
        """The configuration with its length in steps and its precision chosen."""
        # All processes take what the writer takes: they need not run on equal machines.
        precision = self.world.broadcast(
            choose_precision(training.precision, self.world.device, "customization.precision")
        )
        training = training.in_steps(len(self.trained_on), self.batches.batch_size)
        return training.model_copy(update={"precision": precision})

    def _attach(self) -> float:
        """Attach and unfreeze; return the largest change this made to the features of a few images
        (B, D).
        """
        some = self.trained_on[:COMPARED_IMAGES].tolist()
        images = self.views.batch([(position, 0) for position in some])
        # All frozen on both sides: PyTorch takes another kernel where a weight wants a gradient,
        # and rounds otherwise.
        self.model.requires_grad_(False)
        before = self.clip.encode_images(images)
        torch.manual_seed(self.training.seed)
        self.method.attach_to(self.clip, self.training)
        self.model.requires_grad_(False)
        difference = float((self.clip.encode_images(images) - before).abs().max())
        self.trainable_parameters = self.method.set_trainable(self.model)
        return difference

    def _tower(self) -> ImageTower | None:
        if not trains_images(self.model):
            return None
        training = self.training
        tower = ImageTower(
            self.model,
            activation_checkpointing=training.activation_checkpointing,
            compiled=training.compile,
        )
        if training.precision == "bf16":
            tower.use_bf16(self.world.device)
        if not tower.native:  # convolutions want their channels last; a plain ViT has one alone
            self.model.visual.to(memory_format=torch.channels_last)
        return tower

    def _kept_tokens(self) -> Tensor | None:
        """What need not be computed again: tokens (N, V, T, W), or features (N, V, D) of a locked
        image tower.
        """
        training = self.training
        tower = self.encoder.tower
        world = self.world
        if not may_keep(training, splits=tower is None or tower.splits) or not world.one_machine:
            return None
        bf16 = tower is not None and training.precision == "bf16"
        dtype = torch.bfloat16 if bf16 else torch.float32
        fusible = None
        if tower and not tower.native and training.precision != "fp16" and world.device == "cpu":
            visual = self.model.visual
            # Of towers that differ in what trains alone, the frozen part is the same.
            identity = self.weights and (self.weights, repr(visual), tower.start)
            fusible = FusibleTower(visual, identity)
        return keep_tokens(
            self.encoder.frozen,
            self.views,
            max(1, training.views),
            self.scratch,
            world,
            dtype,
            training.worker_count,
            fusible,
        )

    def run(self, observer: TrainingObserver, inputs: Inputs) -> dict[str, Any]:
        """Train from the newest state to the last step; return the counts of the manifest.

        The process that writes leaves a line a step in `metrics`, and notifies the observer.

        Raises:
            TrainingError: If a guard stops it or memory runs out. States of the last good steps
                stay in the scratch.
        """
        base = {"all": self.recall(len(self.held_out)), "probed": self.recall(PROBED_PAIRS)}
        state = self._initial_state()
        first_step, seconds_before, earlier = self._resume(state)
        if self.world.is_writer:
            observer.started(inputs, first_step)
        steps = range(first_step, self.training.steps)
        watched = partial(self.method.watched, self.model)
        training_step = TrainingStep(
            self.encoder, self.texts, state, self.method.loss, self.max_log_scale, watched
        )
        batches = self._batches(steps)
        states = StateWriter(self.scratch)
        with self._log(observer, steps, earlier) as log, closing(batches), states:
            for step in steps:
                began = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - began
                values = self._take(training_step, step, batch)
                seconds = time.monotonic() - began
                if self.probe and (step + 1) % self.training.evaluate_every == 0:
                    values |= self.probe(self.encoder)
                log.add(step, values, waited=waited, seconds=seconds)
                if (step + 1) % self.training.checkpoint_every == 0:
                    # Nothing is kept before it is known to be good.
                    self._require_no_collapse(step + 1, base["probed"], PROBED_PAIRS)
                    if self.world.is_writer:
                        states.save(state, step + 1, self._seconds(seconds_before), log.text())
            losses = log.losses()
            if self.tokens is None:
                log.warn_of_waiting(self.training.worker_count)
        self._require_trained(state)
        # Judged before it is interpolated: going back to the base would hide a collapse.
        recall = self._require_no_collapse(self.training.steps, base["all"], len(self.held_out))
        fraction, scores = self._interpolate()
        return {
            **self._counts(),
            **log.counts(),
            "first_step": first_step,
            "first_loss": losses[0] if losses else None,
            "final_loss": losses[-1] if losses else None,
            "skipped_steps": state.skipped_steps,
            "held_out_before": base["all"],
            "held_out_after": recall if fraction == 1 else self.recall(len(self.held_out)),
            "interpolation": fraction,
            "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
            # With what was computed once (captions, frozen part), and with the tries before a kill.
            "seconds": round(self._seconds(seconds_before), 3),
        }

    def _initial_state(self) -> TrainingState:
        training = self.training
        world = self.world
        trained = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        groups = parameter_groups(trained.items(), training.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, training.learning_rate, (0.9, 0.98), training.adam_eps, fused=True
        )
        scaler = torch.amp.GradScaler(world.device_type, enabled=training.precision == "fp16")
        draws = f"of {self.batches.batch_size} pairs"
        if not training.global_negatives:
            # With negatives of its own part only, what a process sees depends on how many there
            # are.
            draws += f" in {world.size} parts"
        return TrainingState(trained, optimizer, scaler, draws=draws)

    def _resume(self, state: TrainingState) -> tuple[int, float, str]:
        """Load the newest state; return the first step to take, and the seconds and the log of
        earlier tries.
        """
        first_step, seconds, log = load_newest_state(self.scratch, state)
        # Also waits, so that no process prunes a state that another one still reads.
        if self.world.broadcast(first_step) != first_step:
            raise TrainingError(
                "the processes resume from different states; is the store shared? Run again"
            )
        if self.world.is_writer:
            remove_states_after(first_step, self.scratch)
        return first_step, seconds, log

    def _log(self, observer: TrainingObserver, steps: range, earlier: str) -> TrainingLog:
        size, device = self.batches.batch_size, self.world.device
        title = f"training {self.method.name}"
        return TrainingLog(self.metrics, observer, steps, size, device, title, earlier)

    def _batches(self, steps: range) -> Generator[Tensor, None, None]:
        if self.tokens is None:
            return self.batches.from_images(steps)
        return self.batches.from_tokens(self.tokens, steps)

    def _take(self, training_step: TrainingStep, step: int, batch: Tensor) -> dict[str, float]:
        drawn = self.texts.draw(step, self.batches.drawn(step)[0])
        with explained_out_of_memory(f"with batch_size {self.batches.batch_size}", LESS_MEMORY):
            return training_step.take(step, batch, drawn, from_tokens=self.tokens is not None)

    def _require_no_collapse(
        self, done: int, base: Mapping[str, float], count: int
    ) -> dict[str, float]:
        """The recall of the first `count` held-out pairs, if it has not collapsed."""
        recall = self.recall(count)
        require_no_collapse(done, base, recall, min(count, len(self.held_out)))
        return recall

    def _seconds(self, before: float) -> float:
        """Seconds of this try and of those before it."""
        return before + time.monotonic() - self.began

    def _require_trained(self, state: TrainingState) -> None:
        if state.skipped_steps == self.training.steps:
            raise TrainingError(
                "the loss scaler of fp16 skipped every step, so nothing was trained; take more "
                "steps, or precision bf16 or fp32. Nothing was published"
            )
        if not all(torch.isfinite(parameter).all() for parameter in state.trained.values()):
            raise TrainingError(
                "trained weights are not finite; lower learning_rate. Nothing was published"
            )

    def _counts(self) -> dict[str, Any]:
        """What is known of a training before its first step."""
        return {
            "pairs": len(self.views.pairs),
            "held_out_pairs": len(self.held_out),
            "steps": self.training.steps,
            "trainable_parameters": self.trainable_parameters,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "step0_max_difference": self.step0_max_difference,
            "prefix_kept": self.tokens is not None,
            **device_counts(self.world.device),
            "precision": self.training.precision,
            "processes": self.world.size,
        }

    @torch.no_grad()
    def recall(self, count: int) -> dict[str, float]:
        """Image-text recall of the first `count` held-out pairs; empty where none is held out."""
        positions = self.held_out[:count]
        if not len(positions):
            return {}
        captions = self.texts.caption_ids(positions)
        texts = torch.cat(
            [self.texts.vectors(part).cpu() for part in captions.split(ENCODED_AT_ONCE)]
        )
        return image_text_recall(
            self.encoder.vectors(self.views, positions, self.tokens), texts, captions
        )

    def _interpolate(self) -> tuple[float, dict[float, float]]:
        """Move the model along its line to the point that `choose_fraction` chooses."""
        if self.training.interpolation == 1:
            return 1.0, {}
        move_to = self.method.line(self.model, self.start, self.base_names)

        def score(fraction: float) -> float:
            move_to(fraction)
            recall = self.recall(len(self.held_out))
            return sum(recall.values()) / len(recall)

        fraction, scores = choose_fraction(self.training.interpolation, score)
        move_to(fraction)
        return fraction, scores


def _views(clip: Clip, pairs: CollectedPairs, training: TrainingConfig) -> Views:
    pixels = Pixels(clip.preprocess)
    kind = training.augmentation
    augment = None if kind == "none" else augmentation(kind, pixels, clip.preprocess_cfg)
    return Views(pairs, pixels, augment, training.seed)
