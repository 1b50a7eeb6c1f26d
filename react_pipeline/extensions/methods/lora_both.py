"""`lora-both`: low-rank blocks in the attention of both towers, as CLIP-LoRA has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extensions.methods.lora_image import RANK, LoraImage

if TYPE_CHECKING:
    from torch import nn

    from react_pipeline.settings import TrainingConfig


class LoraBoth(LoraImage):
    """`lora-image`, and the same in the text tower."""

    name = "lora-both"
    summary = "low-rank sums in queries, keys and values of both towers"
    colour = "#155a70"

    def attach(self, model: nn.Module, training: TrainingConfig) -> None:
        """Add low-rank blocks to every block of both towers.

        Raises:
            InputError: If one has no attention.
        """
        from react_pipeline.extensions.methods.low_rank import add_low_rank, text_attention

        super().attach(model, training)
        add_low_rank(text_attention(model), training.rank or RANK)
