"""The training of one method on one set of pairs: what is computed once, the loop, what it records.

Source of the recipe: REACT (arXiv 2301.07094). Shapes: B pairs of a batch, N pairs, V views, T
tokens, W width, D embedding dimension.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from react_pipeline.clip import (
    Clip,
    ImageTower,
    Pixels,
    attach,
    choose_precision,
    gate_values,
    map_weights,
    set_trainable,
    text_parameters,
    trains_images,
    trains_text,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Inputs, TrainingError
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.batches import TrainingBatches
from react_pipeline.training.data import Views
from react_pipeline.training.distributed import World
from react_pipeline.training.guards import (
    collapsed,
    explained_out_of_memory,
    less_memory,
    require_no_collapse,
)
from react_pipeline.training.held_out import image_text_recall, split
from react_pipeline.training.image_encoder import ENCODED_AT_ONCE, ImageEncoder
from react_pipeline.training.interpolation import copy_of_base, interpolate, require_held_out
from react_pipeline.training.kept_tokens import keep_tokens, may_keep
from react_pipeline.training.labelled_accuracy import LabelledAccuracy
from react_pipeline.training.log import METRICS_FILE, TrainingLog, peak_memory_bytes, whole_lines
from react_pipeline.training.losses import require_suitable
from react_pipeline.training.observer import TrainingObserver
from react_pipeline.training.resume import (
    Snapshot,
    TrainingState,
    load_newest_state,
    remove_states_after,
)
from react_pipeline.training.schedule import max_log_scale, parameter_groups
from react_pipeline.training.step import TrainingStep, Values
from react_pipeline.training.texts import TrainingTexts

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 16
"""Images whose features are compared with the base's before the first step."""

PROBED_PAIRS = 256
"""Held-out pairs that are looked at while a training runs; before and after it all of them are."""


class Trainer:
    """One training, in each of its processes. `run` leaves the trained model in `clip`."""

    def __init__(
        self,
        clip: Clip,
        pairs: CollectedPairs,
        domain: DomainConfig,
        method: str,
        training: TrainingConfig,
        world: World,
        scratch: Path,
        weights: Path | None = None,
        labelled: LabelledAccuracy | None = None,
    ) -> None:
        """Attach what the method trains, and compute once what stays frozen.

        Args:
            clip: The base, on the world's device.
            method: Without `-control`.
            scratch: Survives a kill; the same directory in all processes.
            weights: The base's safetensors. Given, a frozen text tower leaves the memory once its
                vectors are there.

        Raises:
            InputError: If the batch does not divide among the processes, or the loss does not suit
                the model.
            RetrievalError: If there are fewer than two pairs to train on.
        """
        self.began = time.monotonic()
        self.clip, self.method, self.world, self.scratch, self.labelled = (
            clip,
            method,
            world,
            scratch,
            labelled,
        )
        self.model: Any = clip.model
        require_suitable(training.loss, self.model)
        self.trained_on, self.held_out = split(pairs, training.held_out_fraction, training.seed)
        require_held_out(training.interpolation, len(self.held_out), len(pairs))
        pixels = Pixels(clip.preprocess)
        kind = training.augmentation
        augment = None if kind == "none" else augmentation(kind, pixels, clip.preprocess_cfg)
        self.views = Views(pairs, pixels, augment, training.seed)
        self.batches = TrainingBatches(self.trained_on, self.views, training, world)
        # All processes take what the writer takes: they need not run on equal machines.
        precision = world.broadcast(
            choose_precision(training.precision, world.device, "customization.precision")
        )
        training = training.in_steps(len(self.trained_on), self.batches.batch_size)
        self.training = training = training.model_copy(update={"precision": precision})
        of_base = {name for name, _ in self.model.named_parameters()}
        self.step0_max_difference = self._attach()
        text_trains = trains_text(self.model)
        self.texts = TrainingTexts(clip, pairs, domain, training, world, text_trains, scratch)
        if labelled is not None and not text_trains:
            labelled.freeze_head()
        if weights is not None and not text_trains:
            map_weights(self.model, text_parameters(self.model), weights)
        # Only if there is a line to go back on.
        self.base = {} if training.interpolation == 1 else copy_of_base(self.model, of_base)
        # Of the base, not of a state that is resumed from.
        self.max_log_scale = max_log_scale(training.loss, self.model.logit_scale.item())
        self.encoder = ImageEncoder(self.model, self._tower(), training, world)
        self.tokens = self._kept_tokens()

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
        attach(self.model, self.method, self.training.last_k_layers)
        self.model.requires_grad_(False)
        difference = float((self.clip.encode_images(images) - before).abs().max())
        self.trainable_parameters = set_trainable(self.model, self.method)
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
        training, tower, world = self.training, self.encoder.tower, self.world
        if not may_keep(training, splits=tower is None or tower.splits) or not world.one_machine:
            return None
        dtype = (
            torch.bfloat16 if tower is not None and training.precision == "bf16" else torch.float32
        )
        fusible = (
            tower is not None
            and not tower.native
            and training.precision != "fp16"
            and world.device == "cpu"
        )
        convertible = self.model.visual if fusible else None
        compute, count = self.encoder.frozen, max(1, training.views)
        return keep_tokens(
            compute, self.views, count, self.scratch, world, dtype, training.workers, convertible
        )

    def run(self, observer: TrainingObserver, inputs: Inputs) -> dict[str, Any]:
        """Train from the newest state to the last step; return the counts of the manifest.

        The process that writes leaves a line a step in `METRICS_FILE` of the scratch, and notifies
        the observer.

        Raises:
            TrainingError: If a guard stops it or memory runs out. States of the last good steps
                stay in the scratch.
        """
        training, world = self.training, self.world
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
        # With negatives of its own part only, what a process sees depends on how many there are.
        draws = f"of {self.batches.batch_size} pairs" + (
            "" if training.global_negatives else f" in {world.size} parts"
        )
        state = TrainingState(trained, optimizer, scaler, draws=draws)
        recall_before, probed_before = self.recall(len(self.held_out)), self.recall(PROBED_PAIRS)
        looked_at = min(PROBED_PAIRS, len(self.held_out))
        captions, point = self.texts.caption_ids(self.held_out), torch.ones(len(self.held_out), 1)
        one_point = image_text_recall(
            point, point, captions
        )  # what a model that maps all to one point finds
        guarded = collapsed(recall_before, one_point, len(self.held_out)) is not None
        if not guarded and world.is_writer:
            logger.warning(
                "%d held-out pairs are too few to detect a collapse, so none will be stopped; "
                "raise customization.held_out_fraction, or retrieve more pairs",
                len(self.held_out),
            )
        metrics = self.scratch / METRICS_FILE
        start, seconds_before = load_newest_state(self.scratch, state, len(whole_lines(metrics)))
        if (
            world.broadcast(start) != start
        ):  # also waits: no process prunes a state that another still reads
            raise TrainingError(
                "the processes resume from different states; is the store shared? Run again"
            )
        if world.is_writer:
            remove_states_after(start, self.scratch)
            observer.started(inputs, start)
        gates = partial(gate_values, self.model) if self.method == "gated-image" else dict
        step_of = TrainingStep(self.encoder, self.texts, state, self.max_log_scale, gates)
        steps = range(start, training.steps)
        kept, size = self.tokens, self.batches.batch_size
        batches = (
            self.batches.from_images(steps)
            if kept is None
            else self.batches.from_tokens(kept, steps)
        )
        recomputes = trains_text(self.model) or self.encoder.tower is not None
        advice = less_memory(training, size, world.size, recomputes=recomputes)
        record = partial(
            TrainingLog, metrics if world.is_writer else None, observer, steps, size, world.device
        )
        with (
            ThreadPoolExecutor(1) as pool,
            record(title=f"training {self.method}") as log,
            closing(batches),
        ):
            taken: list[tuple[int, Values, float, float]] = []
            saved: Future[None] | None = None

            def read(more: Mapping[str, float] = {}) -> None:
                for number, values, waited, seconds in taken:
                    log.add(
                        number,
                        {**step_of.read(number, values), **more},
                        waited=waited,
                        seconds=seconds,
                    )
                taken.clear()

            for step in steps:
                began = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - began
                drawn = self.texts.draw(step, self.batches.drawn(step)[0])
                with explained_out_of_memory(f"with batch_size {size}", advice):
                    values = step_of.take(step, batch, drawn, from_tokens=kept is not None)
                # The values of a step are read after the next one has begun, so that a GPU never
                # waits for the host.
                read()
                done, due = step + 1, (step + 1) % training.checkpoint_every == 0
                probes = (
                    looked_at > 0
                    and done < training.steps
                    and not done % (training.probe_every or training.steps)
                )
                evaluates = self.labelled is not None and not done % training.evaluate_every
                if last := due or probes or evaluates or done == training.steps:
                    values.read()
                taken.append((step, values, waited, time.monotonic() - began))
                if last:
                    # Nothing is kept before it is known to be good.
                    read(self.labelled.of(self.encoder) if self.labelled and evaluates else {})
                if probes:
                    require_no_collapse(done, probed_before, self.recall(PROBED_PAIRS), looked_at)
                if world.is_writer and (due or probes):
                    log.flush()
                    if saved is not None:
                        saved.result()  # so that there are never two copies
                    snapshot = Snapshot.of(
                        state, done, seconds_before + time.monotonic() - self.began
                    )
                    saved = pool.submit(snapshot.save, self.scratch, probed=probes)
            if saved is not None:
                saved.result()
            losses = log.losses()
        if state.skipped_steps == training.steps:
            raise TrainingError(
                "the loss scaler of fp16 skipped every step, so nothing was trained; take more "
                "steps, or precision bf16 or fp32. Nothing was published"
            )
        if not all(torch.isfinite(parameter).all() for parameter in trained.values()):
            raise TrainingError(
                "trained weights are not finite; lower learning_rate. Nothing was published"
            )
        # Judged before it is interpolated: going back to the base would hide a collapse.
        after = self.recall(len(self.held_out))
        require_no_collapse(training.steps, recall_before, after, len(self.held_out))
        fraction, scores = interpolate(self.model, self.base, training.interpolation, self._score)
        after = after if fraction == 1 else self.recall(len(self.held_out))
        return {
            "pairs": len(self.views.pairs),
            "held_out_pairs": len(self.held_out),
            "steps": training.steps,
            "first_step": start,
            # With what was computed once (captions, frozen part), and with the tries before a kill.
            "seconds": round(seconds_before + time.monotonic() - self.began, 3),
            "images_per_second": round(
                len(steps) * self.batches.batch_size / max(log.stepping_seconds, 1e-9), 1
            ),
            "data_wait_fraction": round(log.data_wait_fraction, 4),
            "peak_memory_bytes": peak_memory_bytes(world.device),
            "trainable_parameters": self.trainable_parameters,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "first_loss": losses[0] if losses else None,
            "final_loss": losses[-1] if losses else None,
            "step0_max_difference": self.step0_max_difference,
            "held_out_before": recall_before,
            "held_out_after": after,
            "interpolation": fraction,
            "interpolation_scores": {str(at): round(score, 6) for at, score in scores.items()},
            "prefix_kept": self.tokens is not None,
            "device": world.device,
            "precision": training.precision,
            "processes": world.size,
            "skipped_steps": state.skipped_steps,
            "collapse_guard": guarded,
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

    def _score(self) -> float:
        recall = self.recall(len(self.held_out))
        return sum(recall.values()) / len(recall)
