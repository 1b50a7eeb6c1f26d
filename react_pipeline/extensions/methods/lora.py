"""`lora-image` and `lora-both`: low-rank blocks in the attention of one tower or of both.

They are merged into the weights when they are trained. Source: CLIP-LoRA (Zanella and Ben Ayed
2024, arXiv 2405.18541), without its dropout: models are trained in eval mode here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from react_pipeline.training import ModelMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from react_pipeline.settings import TrainingConfig


RANK = 2


class LoraImage(ModelMethod):
    """The least that trains in a tower, and nothing new in the checkpoint."""

    name = "lora-image"
    summary = "low-rank sums in queries, keys and values of the image tower"
    defaults = {"learning_rate": 2e-4, "weight_decay": 0.01, "rank": RANK}
    unused_fields = frozenset({"last_k_layers"})
    step0_tolerance = 0.0
    towers: tuple[str, ...] = ("image",)

    def attach(self, model: nn.Module, training: TrainingConfig) -> None:
        """Add low-rank blocks to every block of the towers.

        Raises:
            InputError: If one has no attention.
        """
        from react_pipeline.extensions.methods.low_rank import add_low_rank

        for tower in self.towers:
            add_low_rank(model, tower, training.rank or RANK)

    def trains(self, name: str) -> bool:
        """The low-rank blocks."""
        return ".parametrizations." in name and name.endswith((".down", ".up"))

    def line(
        self, model: nn.Module, start: Mapping[str, Tensor], base_names: Collection[str]
    ) -> Callable[[float], None]:
        """Only `up` moves, from zero: so the weights of the model are on a line."""
        fixed = {name for name in start if name.endswith(".down") and self.trains(name)}
        moved = {name: weight for name, weight in start.items() if name not in fixed}
        return super().line(model, moved, base_names)

    def merge(self, model: nn.Module) -> None:
        """Add the products to the weights: plain open_clip loads the result."""
        from react_pipeline.extensions.methods.low_rank import merge_low_rank

        merge_low_rank(model)


class LoraBoth(LoraImage):
    """`lora-image`, and the same in the text tower."""

    name = "lora-both"
    summary = "low-rank sums in queries, keys and values of both towers"
    towers = ("image", "text")
