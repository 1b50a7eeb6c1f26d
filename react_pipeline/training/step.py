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

from react_pipeline.training.gradients import GradientSum
from react_pipeline.training.guards import require_finite, require_steady_scale, require_steps_taken
from react_pipeline.training.image_encoder import ImageEncoder
from react_pipeline.training.losses import contrastive_loss
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import MAX_LOG_SCALE, learning_rate
from react_pipeline.training.texts import DrawnTexts, TrainingTexts

SHARED = ("logit_scale", "logit_bias")
"""Trained by every method; their gradient comes from the loss itself, the same in every process."""


class Values:
    """Scalars of a step on their way from the device: the host waits for them alone, and only where
    it reads them.
    """

    def __init__(self, scalars: Mapping[str, Tensor]) -> None:
        """Begin to copy them."""
        self._names = tuple(scalars)
        values = torch.stack([scalar.detach().double() for scalar in scalars.values()])
        self._done = torch.cuda.Event() if values.is_cuda else None
        self._host = values
        if self._done is not None:
            self._host = torch.empty_like(values, device="cpu", pin_memory=True).copy_(
                values, non_blocking=True
            )
            self._done.record()

    def read(self) -> dict[str, float]:
        """Wait for them."""
        if self._done is not None:
            self._done.synchronize()
        return dict(zip(self._names, self._host.tolist(), strict=True))


class TrainingStep:
    """Takes the steps of one training."""

    def __init__(
        self,
        images: ImageEncoder,
        texts: TrainingTexts,
        state: TrainingState,
        max_log_scale: float = MAX_LOG_SCALE,
        watched: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> None:
        """Take steps with `state`; `watched` are more scalars that are read after each."""
        self._images, self._texts, self._state = images, texts, state
        self._model: Any = images.model
        self._training, self._world = training, world = images.training, images.world
        self._max_log_scale, self._watched = max_log_scale, watched
        # Of a loss over the whole batch every process has the whole gradient of the scale already.
        shared = SHARED if training.global_negatives else ()
        summed = [parameter for name, parameter in state.trained.items() if name not in shared]
        averaged = [parameter for name, parameter in state.trained.items() if name in shared]
        self._gradients = GradientSum(world, summed, averaged)

    def take(self, step: int, batch: Tensor, drawn: DrawnTexts, *, from_tokens: bool) -> Values:
        """Take step number `step`, without waiting for the device; `read` its values after the next
        one is taken.

        Args:
            batch: This process's images (B, 3, H, W), or `from_tokens` what is kept of them, (B, T,
                W) or (B, D).
            drawn: The texts of the whole batch, of all processes.
        """
        state = self._state
        rate = learning_rate(step, self._training)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch, drawn, from_tokens)
        self._gradients.finish()
        state.scaler.unscale_(state.optimizer)
        gradients = [
            parameter.grad for parameter in state.trained.values() if parameter.grad is not None
        ]
        norm = nn.utils.get_total_norm(gradients)
        scale: Tensor = self._model.logit_scale
        before = scale.detach().clone()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        after = scale.detach().clone()
        with torch.no_grad():
            scale.clamp_(0, self._max_log_scale)
        own = {
            "loss": loss,
            "gradient_norm": norm,
            "logit_scale": scale.exp(),
            "before": before,
            "after": after,
        }
        return Values({**own, **self._watched()})

    def read(self, step: int, taken: Values) -> dict[str, float]:
        """Loss, learning rate, gradient norm, logit scale and what is watched, of a step that was
        taken.

        Raises:
            TrainingError: If loss or gradient were not finite; or if the logit scale exploded or
                fell to 1.
        """
        state, values = self._state, taken.read()
        require_finite(step, "loss", values["loss"])
        if (
            not state.scaler.is_enabled()
        ):  # the scaler skips such steps itself, and lowers its scale
            require_finite(step, "gradient norm", values["gradient_norm"])
        skips = not math.isfinite(values["gradient_norm"])
        state.skipped_steps += skips
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skips else 0
        require_steps_taken(step, state.skipped_in_a_row)
        require_steady_scale(step, values.pop("before"), values.pop("after"))
        values["learning_rate"] = learning_rate(step, self._training)
        # A step that the scaler skips has no finite norm, and JSON has no value for that.
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _backward(self, batch: Tensor, drawn: DrawnTexts, from_tokens: bool) -> Tensor:
        """Leave the gradients of this process's features in the trained parameters; return the loss
        of the batch.
        """
        world, training = self._world, self._training
        mine = world.part(drawn.texts)

        def images(part: slice) -> Tensor:
            return self._images(batch[part], kept=from_tokens)

        def texts(part: slice) -> Tensor:
            with self._images.autocast():
                return self._texts.vectors(mine[part])

        each = -(-len(mine) // training.accumulation)
        parts = [slice(start, start + each) for start in range(0, len(mine), each)]
        if (
            self._images.tower is None and not from_tokens
        ):  # no gradient comes here, so no part is computed twice
            batch, from_tokens = (
                torch.cat([self._images.frozen(batch[part]) for part in parts]),
                True,
            )
        # One part keeps its graph; several would need the memory of all of them at once.
        keep = len(parts) == 1
        with torch.set_grad_enabled(keep):
            image_parts, text_parts = (
                [images(part) for part in parts],
                [texts(part) for part in parts],
            )
        whole = [self._leaf(torch.cat(image_parts)), self._leaf(torch.cat(text_parts))]
        loss = self._loss(whole[0], whole[1], drawn)
        share = 1 if training.global_negatives else world.size
        self._state.scaler.scale(loss / share).backward()
        gradients = [leaf.grad for leaf in whole if leaf.grad is not None]
        slices = [
            world.part(gradient) if training.global_negatives else gradient
            for gradient in gradients
        ]
        for number, part in enumerate(parts):
            self._gradients.whole = number == len(parts) - 1
            for make, made, gradient in zip(
                (images, texts), (image_parts, text_parts), slices, strict=True
            ):
                features = made[number] if keep else make(part)
                if features.requires_grad:
                    features.backward(gradient[part])
        return loss if training.global_negatives else world.mean(loss)

    def _loss(self, images: Tensor, texts: Tensor, drawn: DrawnTexts) -> Tensor:
        world = self._world
        captions, classes = drawn.captions, drawn.classes
        if not self._training.global_negatives:
            captions, classes = world.part(captions), world.part(classes)
        return contrastive_loss(
            images,
            texts,
            self._model.logit_scale.exp(),
            captions.to(images.device),
            classes.to(images.device),
            self._training.loss,
            getattr(self._model, "logit_bias", None),
        )

    def _leaf(self, features: Tensor) -> Tensor:
        """The features (of all processes, if negatives are global) as the start of the loss's own
        graph.
        """
        gathered = (
            self._world.gather(features) if self._training.global_negatives else features.detach()
        )
        return gathered.requires_grad_()
