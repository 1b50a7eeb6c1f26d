"""The batches of a training: which pairs and which views each step sees, and what the image tower
is fed with.

Shapes: B pairs of a batch, N pairs, V views, T tokens, W width, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from react_pipeline.settings import TrainingConfig
from react_pipeline.training.data import PairView, Views, ahead, on_device
from react_pipeline.training.schedule import batch_at, fit_batch_size, generator
from react_pipeline.training.world import World


class TrainingBatches:
    """Everything is a function of the step, so a training can resume at any step.

    Attributes:
        batch_size: Pairs of a step over all processes.
    """

    def __init__(
        self, positions: Tensor, views: Views, training: TrainingConfig, world: World
    ) -> None:
        """Draw from the pairs at `positions` (N,).

        Raises:
            InputError: If the batch does not divide among the processes.
            RetrievalError: If there are too few pairs.
        """
        self.batch_size = fit_batch_size(training, len(positions), world.size)
        self._positions = positions
        self._views = views
        self._training = training
        self._world = world

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the pairs of a step, of all processes: their positions (B,), and a view (B,) of
        each.
        """
        training = self._training
        batch = batch_at(step, len(self._positions), self.batch_size, training.seed, training.order)
        positions = self._positions[batch]
        if training.augmentation != "none" and not training.views:
            return positions, torch.full_like(positions, step + 1)
        views = torch.randint(
            max(1, training.views), positions.shape, generator=generator(training.seed, 2, step)
        )
        return positions, views

    def stream(self, steps: range, tokens: Tensor | None) -> Generator[Tensor, None, None]:
        """Yield this process's part of each step's batch, ready ahead of its use: images (B, 3, H,
        W), or of the `tokens` kept of every pair those drawn, (B, T, W) or (B, D).
        """
        world = self._world
        if tokens is not None:

            def batch(step: int) -> Tensor:
                positions, views = map(world.part, self.drawn(step))
                rows = tokens[positions, views]
                return rows if world.device == "cpu" else rows.pin_memory()

            yield from on_device(ahead(batch, steps), world.device)
            return
        workers = self._views.fitting_workers(self.batch_size // world.size, self._training)

        def draws() -> Iterator[list[PairView]]:
            for step in steps:
                positions, views = (world.part(part).tolist() for part in self.drawn(step))
                yield list(zip(positions, views, strict=True))

        yield from self._views.batches(draws(), workers, world.device)
