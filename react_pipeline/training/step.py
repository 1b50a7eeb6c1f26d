"""One optimizer step: features, loss over the batch of all processes, exact gradients, and the
guards of its values.

The loss is computed from the gathered features of all processes, and its gradient with respect to
each feature is then sent back through the tower by the process that made it. The sum over processes
is the gradient of the whole batch; so one process and many take the same steps, up to rounding.
Parts of a batch (`accumulation`) work the same way: features first, without a graph, then every
part once more with its share of the gradient (GradCache, arXiv 2101.06983). Shapes: B pairs of this
process, T tokens, W width, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from react_pipeline.training.guards import require_finite, require_steady_scale, require_steps_taken
from react_pipeline.training.image_encoder import ImageEncoder
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import MAX_LOG_SCALE, learning_rate
from react_pipeline.training.texts import DrawnTexts, TrainingTexts

LOSS_PARAMETERS = ("logit_scale", "logit_bias")
"""Trained by every method; their gradient comes from the loss itself, the same in every process."""


class TrainingStep:
    """Takes the steps of one training."""

    def __init__(
        self,
        images: ImageEncoder,
        texts: TrainingTexts,
        state: TrainingState,
        loss: Callable[..., Tensor],
        max_log_scale: float = MAX_LOG_SCALE,
        watched: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> None:
        """Take steps with `state`; `loss` has the arguments of `contrastive_loss`; `watched` are
        more scalars that are read after each step.
        """
        self._images = images
        self._texts = texts
        self._state = state
        self._model: Any = images.model
        self._training = images.training
        self._world = images.world
        self._max_log_scale = max_log_scale
        self._watched = watched
        self._loss_function = loss
        # Of a loss over the whole batch every process has the whole gradient of the scale already.
        shared = LOSS_PARAMETERS if self._training.global_negatives else ()
        summed = [parameter for name, parameter in state.trained.items() if name not in shared]
        averaged = [parameter for name, parameter in state.trained.items() if name in shared]
        self._gradients = self._world.sum_gradients(summed, averaged)

    def take(
        self, step: int, batch: Tensor, drawn: DrawnTexts, *, from_tokens: bool
    ) -> dict[str, float]:
        """Take step number `step`; return loss, learning rate, gradient norm, logit scale and what
        is watched.

        Args:
            batch: This process's images (B, 3, H, W), or `from_tokens` what is kept of them, (B, T,
                W) or (B, D).
            drawn: The texts of the whole batch, of all processes.

        Raises:
            TrainingError: If loss or gradient are not finite; or if the logit scale exploded or
                fell to 1.
        """
        state = self._state
        rate = learning_rate(step, self._training)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch, drawn, from_tokens).item()
        self._gradients.finish()
        state.scaler.unscale_(state.optimizer)
        gradients = [
            parameter.grad for parameter in state.trained.values() if parameter.grad is not None
        ]
        norm = nn.utils.get_total_norm(gradients).item()
        self._require_finite(step, loss, norm)
        self._update(step)
        values = {
            "loss": loss,
            "gradient_norm": norm,
            "logit_scale": self._model.logit_scale.exp().item(),
            "learning_rate": rate,
        }
        for name, value in self._watched().items():
            values[name] = value.item()
        # A step that the scaler skips has no finite norm, and JSON has no value for that.
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _require_finite(self, step: int, loss: float, norm: float) -> None:
        """Stop at values that are not finite; the scaler of fp16 skips such gradients by itself."""
        state = self._state
        require_finite(step, "loss", loss)
        if not state.scaler.is_enabled():
            require_finite(step, "gradient norm", norm)
        if math.isfinite(norm):
            state.skipped_in_a_row = 0
        else:
            state.skipped_steps += 1
            state.skipped_in_a_row += 1
        require_steps_taken(step, state.skipped_in_a_row)

    def _update(self, step: int) -> None:
        """Let the optimizer change the parameters, and keep the logit scale in its bounds."""
        scale: Tensor = self._model.logit_scale
        before = scale.item()
        self._state.scaler.step(self._state.optimizer)
        self._state.scaler.update()
        require_steady_scale(step, before, scale.item())
        with torch.no_grad():
            scale.clamp_(0, self._max_log_scale)

    def _backward(self, batch: Tensor, drawn: DrawnTexts, from_tokens: bool) -> Tensor:
        """Leave the gradients of this process's features in the trained parameters; return the loss
        of the batch.
        """
        world = self._world
        training = self._training
        own_texts = world.part(drawn.texts)
        each = math.ceil(len(own_texts) / training.accumulation)
        parts = [slice(start, start + each) for start in range(0, len(own_texts), each)]
        if self._images.tower is None and not from_tokens:
            # No gradient comes here, so no part is encoded twice.
            batch = torch.cat([self._images.frozen(batch[part]) for part in parts])
            from_tokens = True

        def encode_images(part: slice) -> Tensor:
            return self._images(batch[part], kept=from_tokens)

        def encode_texts(part: slice) -> Tensor:
            with self._images.autocast():
                return self._texts.vectors(own_texts[part])

        # One part keeps its graph; several would need the memory of all of them at once.
        keeps_graph = len(parts) == 1
        sides = []
        for encode in (encode_images, encode_texts):
            with torch.set_grad_enabled(keeps_graph):
                features = [encode(part) for part in parts]
            sides.append((encode, features, self._leaf(torch.cat(features))))
        loss = self._loss(sides[0][2], sides[1][2], drawn)
        share = 1 if training.global_negatives else world.size
        self._state.scaler.scale(loss / share).backward()
        for number, part in enumerate(parts):
            self._gradients.whole = number == len(parts) - 1
            for encode, features, leaf in sides:
                encoded = features[number] if keeps_graph else encode(part)
                if encoded.requires_grad:
                    gradient: Any = leaf.grad
                    own = world.part(gradient) if training.global_negatives else gradient
                    encoded.backward(own[part])
        return loss if training.global_negatives else world.mean(loss)

    def _loss(self, images: Tensor, texts: Tensor, drawn: DrawnTexts) -> Tensor:
        world = self._world
        captions = drawn.captions
        classes = drawn.classes
        if not self._training.global_negatives:
            captions = world.part(captions)
            classes = world.part(classes)
        return self._loss_function(
            images,
            texts,
            self._model.logit_scale.exp(),
            captions.to(images.device),
            classes.to(images.device),
            self._training.loss,
            getattr(self._model, "logit_bias", None),
        )

    def _leaf(self, features: Tensor) -> Tensor:
        """Return the features (of all processes, if negatives are global) as the start of the
        loss's own graph.
        """
        gathered = (
            self._world.gather(features) if self._training.global_negatives else features.detach()
        )
        return gathered.requires_grad_()
