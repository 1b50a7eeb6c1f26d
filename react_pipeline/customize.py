"""Customization: train a method's part of CLIP on the pairs of a domain and publish the checkpoint.

Belongs here: the training loop and what it records. Does not belong here: which pairs (`retrieve`), the blocks
(`gated`), schedule and loss (`schedule`). Source of the recipe: REACT (arXiv 2301.07094).
Shapes: B pairs of a batch, T tokens, W width, D embedding dimension, V views, P prompts of a class.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm import tqdm

from react_pipeline.artifacts import Artifact, Inputs
from react_pipeline.config import DomainConfig
from react_pipeline.errors import RetrievalError, TrainingError
from react_pipeline.gated import add_gated_blocks, frozen_prefix, gated_layers, scale_gates, vision_blocks
from react_pipeline.lineage import Project, method_key, resolve
from react_pipeline.model import Clip, choose_device, load, save, set_trainable
from react_pipeline.prompts import fill, prompt_templates
from react_pipeline.resume import load_newest_state, save_state
from react_pipeline.schedule import (
    MAX_LOG_SCALE,
    batch_at,
    contrastive_loss,
    generator,
    learning_rate,
    parameter_groups,
)
from react_pipeline.training_config import CONTROL_SUFFIX, TrainingConfig
from react_pipeline.training_data import TrainingPairs, prefix_tokens

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
SCRATCH = "resume"
PROBE_IMAGES = 64


def customize(project: Project, slug: str, method: str) -> Artifact:
    """Train `method` on the retrieved pairs of a domain (a control: on its random pairs); publish the checkpoint.

    A killed run goes on from its newest state and repeats an uninterrupted run's losses.

    Raises:
        RetrievalError: If too many classes have too few pairs.
        TrainingError: If the loss stops being finite, or memory runs out; nothing is published then.
    """
    inputs = resolve(project, "customized_checkpoint", method_key(slug, method))
    pairs = inputs.parents["control_set" if method.endswith(CONTROL_SUFFIX) else "retrieved_set"]
    _refuse_starving(project, slug, pairs)
    training = project.training(slug, method)
    device = choose_device(project.config.device)

    def write(staging: Path) -> dict[str, Any]:
        trainer = Trainer(inputs, training, project.domain(slug), pairs, device)
        counts = trainer.run(staging)
        save(trainer.clip, staging)
        _plot_losses(staging / METRICS_FILE, staging / "loss.png")
        shutil.rmtree(staging / SCRATCH, ignore_errors=True)
        return counts

    return project.store.build(inputs, write, resumable=True)


def _refuse_starving(project: Project, slug: str, pairs: Artifact) -> None:
    starving = pairs.counts.get("starving", [])
    limit = project.retrieval(slug).max_starving_fraction
    if len(starving) > limit * len(project.domain(slug).classes):
        raise RetrievalError(
            f"{slug}: {len(starving)} classes have too few pairs ({', '.join(starving[:8])}, ...); add synonyms, widen "
            "retrieval, or raise retrieval.max_starving_fraction"
        )


@dataclass
class _Texts:
    """Caption of each pair as an id, and the vectors of what it may be trained with."""

    caption_ids: Tensor
    captions: Tensor
    prompts: Tensor | None
    class_ids: Tensor


class Trainer:
    """One training. `run` leaves the trained model in `clip`."""

    def __init__(
        self, inputs: Inputs, training: TrainingConfig, domain: DomainConfig, pairs: Artifact, device: str
    ) -> None:
        """Load base and pairs, attach what the method trains, and compute once what stays frozen."""
        self.began = time.monotonic()
        self.training = training
        self.device = device
        self.method = str(inputs.config["method"]).removesuffix(CONTROL_SUFFIX)
        torch.manual_seed(training.seed)
        self.clip: Clip = load(inputs.parents["base_checkpoint"].path, device)
        self.model: Any = self.clip.model
        self.pairs = TrainingPairs(pairs, self.clip.preprocess, training.seed)
        if len(self.pairs) < 2:
            raise RetrievalError(f"{inputs.key}: {len(self.pairs)} pairs; contrastive training needs two at least")
        self.step0_max_difference = self._attach()
        self.text_frozen = self.method != "full"
        self.texts = self._encode_texts(domain)
        self.prefix = frozen_prefix(self.model)
        self.tokens = prefix_tokens(self.pairs, self.prefix, training.views, device) if self.prefix else None

    def _attach(self) -> float:
        """Attach and unfreeze; return the largest change this made to the features of a few images (B, D)."""
        images = torch.stack([self.pairs.image(at, 0) for at in range(min(PROBE_IMAGES, len(self.pairs)))])
        before = self.clip.encode_images(images)
        if self.method == "gated-image":
            add_gated_blocks(self.model, min(self.training.last_k_layers, len(vision_blocks(self.model))))
        self.trainable_parameters = set_trainable(self.model, self.method)
        return float((self.clip.encode_images(images) - before).abs().max())

    def _encode_texts(self, domain: DomainConfig) -> _Texts:
        unique = sorted(set(self.pairs.captions))
        position = {caption: number for number, caption in enumerate(unique)}
        ids = torch.tensor([position[caption] for caption in self.pairs.captions])
        names = domain.class_names
        known = {name: number for number, name in enumerate(names)}
        class_ids = torch.tensor([known.get(name, -1) for name in self.pairs.classes])
        if not self.text_frozen:
            self.unique_captions = unique
            return _Texts(ids, torch.empty(0), None, class_ids)
        prompts = None
        if self.training.class_prompt_fraction:
            texts = [fill(template, name) for name in names for template in prompt_templates(domain)]
            prompts = self.clip.encode_texts(texts).view(len(names), -1, self.clip.dimension)
        return _Texts(ids, self.clip.encode_texts(unique), prompts, class_ids)

    def run(self, staging: Path) -> dict[str, Any]:
        """Train from the newest state in `staging` to the last step; return the counts of the manifest."""
        training = self.training
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        groups = parameter_groups(trained.items(), training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98), eps=1e-6)
        start, before = load_newest_state(staging / SCRATCH, trained, optimizer)
        metrics = staging / METRICS_FILE
        _keep_lines(metrics, start)
        stepping = time.monotonic()
        images = self._image_batches(start)
        with metrics.open("a", encoding="utf-8") as log:
            for step in tqdm(range(start, training.steps), f"training {self.method}", disable=None):
                record = self._step(step, next(images), optimizer)
                log.write(json.dumps(record) + "\n")
                if (step + 1) % training.checkpoint_every == 0:
                    log.flush()
                    save_state(staging / SCRATCH, step + 1, before + self._elapsed(), trained, optimizer)
        stepped = time.monotonic() - stepping
        if not all(torch.isfinite(parameter).all() for parameter in trained.values()):
            raise TrainingError("trained weights are not finite; lower learning_rate. Nothing was published")
        scale_gates(self.model, training.gate_scale)
        losses = [json.loads(line)["loss"] for line in metrics.read_text(encoding="utf-8").splitlines()]
        return {
            "pairs": len(self.pairs),
            "steps": training.steps,
            "first_step": start,
            # With what was computed once (captions, frozen part), and with the sessions before a kill.
            "seconds": round(before + self._elapsed(), 3),
            "images_per_second": round((training.steps - start) * self._batch_size / max(stepped, 1e-9), 1),
            "trainable_parameters": self.trainable_parameters,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "first_loss": losses[0],
            "final_loss": losses[-1],
            "step0_max_difference": self.step0_max_difference,
            "prefix_kept": self.tokens is not None,
            "device": self.device,
        }

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def _batch_size(self) -> int:
        return min(self.training.batch_size, len(self.pairs))

    def _drawn(self, step: int) -> tuple[Tensor, Tensor]:
        """Positions (B,) of the pairs of a step and the view (B,) drawn for each."""
        training = self.training
        positions = batch_at(step, len(self.pairs), training.batch_size, training.seed)
        views = torch.randint(max(1, training.views), positions.shape, generator=generator(training.seed, 2, step))
        return positions, views

    def _image_batches(self, start: int) -> Any:
        """What each step feeds to the image tower: kept tokens (B, T, W), or decoded images (B, 3, H, W)."""
        if self.tokens is not None:
            for step in range(start, self.training.steps):
                positions, views = self._drawn(step)
                yield self.tokens[positions, views]
            return
        # Lists of plain numbers for all steps are small beside one batch of images.
        wanted = [
            list(zip(*(part.tolist() for part in self._drawn(step)), strict=True))
            for step in range(start, self.training.steps)
        ]
        yield from self.pairs.batches(wanted)

    def _image_features(self, batch: Tensor) -> Tensor:
        if self.prefix is None:
            return self.model.encode_image(batch)
        tokens = batch if self.tokens is not None else self.prefix.tokens(batch)
        return self.prefix.features(tokens)

    def _text_vectors(self, step: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, D) of the texts of a step, and ids (B,) in which equal texts are equal."""
        ids = self.texts.caption_ids[positions]
        if not self.text_frozen:
            tokens = self.clip.tokenizer([self.unique_captions[number] for number in ids.tolist()])
            return self.model.encode_text(tokens.to(self.device), normalize=True), ids
        vectors = self.texts.captions[ids]
        if self.texts.prompts is not None:
            rng = generator(self.training.seed, 3, step)
            classes = self.texts.class_ids[positions]
            replaced = (torch.rand(ids.shape, generator=rng) < self.training.class_prompt_fraction) & (classes >= 0)
            chosen = torch.randint(self.texts.prompts.shape[1], ids.shape, generator=rng)
            vectors = torch.where(replaced[:, None], self.texts.prompts[classes, chosen], vectors)
            ids = torch.where(replaced, -1 - classes, ids)
        return vectors.to(self.device), ids

    def _step(self, step: int, batch: Tensor, optimizer: torch.optim.AdamW) -> dict[str, float]:
        training = self.training
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        positions, _ = self._drawn(step)
        began = time.monotonic()
        try:
            with torch.autocast(self.device, torch.bfloat16, enabled=training.precision == "bf16"):
                images = self._image_features(batch.to(self.device))
            images = functional.normalize(images.float(), dim=-1)
            texts, ids = self._text_vectors(step, positions)
            captions = ids.to(self.device) if training.loss == "infonce-captions" else None
            loss = contrastive_loss(images, texts.float(), self.model.logit_scale.exp(), captions)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"out of memory at batch_size {self._batch_size}; set customization batch_size to "
                f"{max(2, self._batch_size // 2)}"
            ) from error
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step}; lower learning_rate. Nothing was published")
        optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return {
            "step": step,
            "loss": loss.item(),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "logit_scale": self.model.logit_scale.exp().item(),
            "images_per_second": round(len(positions) / max(time.monotonic() - began, 1e-9), 1),
            **self._gates(),
        }

    def _gates(self) -> dict[str, float]:
        values = {}
        for number, block in gated_layers(self.model).items():
            values[f"gate_attn_{number}"] = block.alpha_attn.tanh().item()
            values[f"gate_dense_{number}"] = block.alpha_dense.tanh().item()
        return values


def _keep_lines(metrics: Path, steps: int) -> None:
    """Drop records of steps after the state that is resumed from; a torn last line goes with them."""
    if metrics.exists():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)[:steps]
        metrics.write_text("".join(lines), encoding="utf-8")


def _plot_losses(metrics: Path, target: Path) -> None:
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([record["step"] for record in records], [record["loss"] for record in records])
    axes.set(xlabel="step", ylabel="contrastive loss")
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=100)
