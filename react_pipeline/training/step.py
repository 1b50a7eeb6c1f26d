"""One optimizer step: features, loss over the batch of all processes, exact gradients, and the
guards of its values.

The loss is computed from the gathered features of all processes, and its gradient with respect to
each feature is then sent back through the tower by the process that made it. The sum over processes
is the gradient of the whole batch; so one process and many take the same steps, up to rounding.
Parts of a batch (`accumulation`) work the same way: features first, without a graph, then every
part once more with its share of the gradient (GradCache, arXiv 2101.06983). Shapes: B pairs of this
process, T tokens, W width, D embedding dimension.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from react_pipeline.clip import row_bytes
from react_pipeline.training.data import ImageEncoder
from react_pipeline.training.guards import require_finite, require_steady_scale, require_steps_taken
from react_pipeline.training.kept import TrainingTexts
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import MAX_LOG_SCALE, learning_rate

LOSS_PARAMETERS = ("logit_scale", "logit_bias")
"""Trained by every method; their gradient comes from the loss itself, the same in every process."""


@dataclass(frozen=True)
class TrainingStep:
    """Takes the steps of one training.

    Attributes:
        state: What a step changes.
        loss: Has the arguments of `contrastive_loss`.
        watched: Returns more scalars, which are read after each step.
    """

    images: ImageEncoder
    texts: TrainingTexts
    state: TrainingState
    loss: Callable[..., Tensor]
    max_log_scale: float = MAX_LOG_SCALE
    watched: Callable[[], Mapping[str, Tensor]] = dict

    def take(self, step: int, batch: Tensor, pairs: Tensor) -> dict[str, float]:
        """Take step number `step`; return loss, learning rate, gradient norm, logit scale and what
        is watched.

        Args:
            batch: This process's images (B, 3, H, W), or what is frozen of them, (B, T, W) or
                (B, D).
            pairs: Positions of the pairs of the whole batch, of all processes.

        Raises:
            TrainingError: If loss or gradient are not finite; or if the logit scale exploded or
                fell to 1.
        """
        state, scale = self.state, self.images.model.logit_scale
        rate = learning_rate(step, self.images.training)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch, pairs).item()
        gradients = self._summed_gradients()
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.get_total_norm(gradients).item()
        require_finite(step, "loss", loss)
        if not state.scaler.is_enabled():  # that of fp16 skips such gradients by itself
            require_finite(step, "gradient norm", norm)
        skipped, in_a_row = state.skipped
        state.skipped = (skipped, 0) if math.isfinite(norm) else (skipped + 1, in_a_row + 1)
        require_steps_taken(step, state.skipped[1])
        before = scale.item()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        require_steady_scale(step, before, scale.item())
        with torch.no_grad():
            scale.clamp_(0, self.max_log_scale)
        values = {
            "loss": loss,
            "gradient_norm": norm,
            "logit_scale": scale.exp().item(),
            "learning_rate": rate,
            **{name: value.item() for name, value in self.watched().items()},
        }
        # A step that the scaler skips has no finite norm, and JSON has no value for that.
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def pair_bytes(self, batch: Tensor, pairs: Tensor) -> int:
        """Return the bytes that each pair of a part adds to the most memory of a step; arguments as
        of `take`, for a few pairs.
        """

        def encode(count: int) -> Iterator[Tensor]:
            yield self.images(batch[:count].clone())
            yield self._encode_texts(pairs[:count])

        return row_bytes(encode, len(pairs), [*self.state.trained.values()])

    def _backward(self, batch: Tensor, pairs: Tensor) -> Tensor:
        """Leave the gradients of this process's features in the trained parameters; return the loss
        of the batch.
        """
        world = self.images.world
        own_pairs = world.part(pairs)
        each = math.ceil(len(own_pairs) / self.images.training.accumulation)
        parts = [slice(start, start + each) for start in range(0, len(own_pairs), each)]
        if self.images.tower is None:
            # No gradient comes here, so no part is encoded twice.
            batch = torch.cat([self.images(batch[part]) for part in parts])

        # One part keeps its graph; several would need the memory of all of them at once.
        keeps_graph = len(parts) == 1
        sides = []
        for encode, rows in ((self.images, batch), (self._encode_texts, own_pairs)):
            with torch.set_grad_enabled(keeps_graph):
                features = [encode(rows[part]) for part in parts]
            # The features of all processes are the start of the loss's own graph.
            leaf = world.gather(torch.cat(features)).requires_grad_()
            sides.append((encode, rows, features, leaf))
        images, texts = (leaf for *_, leaf in sides)
        model = self.images.model
        loss = self.loss(
            images,
            texts,
            model.logit_scale.exp(),
            self.texts.caption_ids(pairs).to(images.device),
            self.texts.class_ids(pairs).to(images.device),
            self.images.training.loss,
            getattr(model, "logit_bias", None),
        )
        self.state.scaler.scale(loss).backward()
        for number, part in enumerate(parts):
            for encode, rows, features, leaf in sides:
                encoded = features[number] if keeps_graph else encode(rows[part])
                if encoded.requires_grad:
                    gradient: Any = leaf.grad
                    encoded.backward(world.part(gradient)[part])
        return loss

    def _encode_texts(self, pairs: Tensor) -> Tensor:
        """Encode the texts of the pairs at these positions (B,), in the precision of the step."""
        with self.images.autocast():
            return self.texts.vectors(self.texts.caption_ids(pairs))

    def _summed_gradients(self) -> list[Tensor]:
        """Return the gradients, each summed over all processes."""
        gradients = []
        for name, parameter in self.state.trained.items():
            if parameter.grad is not None:
                if name in LOSS_PARAMETERS:
                    # Every process has the whole of it; the mean is equal to the last bit in all.
                    parameter.grad /= self.images.world.size
                gradients.append(parameter.grad)
        self.images.world.sum(gradients)
        return gradients
