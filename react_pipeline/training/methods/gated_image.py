"""`gated-image`, REACT's own method: new gated blocks in front of the last vision layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from react_pipeline.training.methods.model_method import ModelMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from react_pipeline.settings import TrainingConfig


class GatedImage(ModelMethod):
    """Closed gates restore the base exactly.

    The blocks are part of the architecture, as in REACT's released checkpoints: `clip` writes
    `react_cfg` and builds them again.
    """

    name = "gated-image"
    summary = (
        "new gated blocks in front of the last vision layers; every weight of the base is as it "
        "was, but for the logit scale"
    )
    defaults = {"learning_rate": 5e-4}
    unused_fields = frozenset({"rank"})
    step0_tolerance = 0.0
    is_default = True

    def attach(self, model: nn.Module, training: TrainingConfig) -> None:
        """Add gated blocks, as many as there are layers at most.

        Raises:
            InputError: If the image tower has no place for them.
        """
        from react_pipeline.clip import add_gated_blocks, gated_layers, vision_blocks

        if not gated_layers(model):
            add_gated_blocks(model, min(training.last_k_layers, len(vision_blocks(model))))

    def trains(self, name: str) -> bool:
        """Return whether a parameter belongs to a gated block."""
        return ".gated_attn_block." in name

    def watched(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the gates."""
        from react_pipeline.clip import gate_values

        return gate_values(model)

    def line(
        self, model: nn.Module, start: Mapping[str, Tensor], base_names: Collection[str]
    ) -> Callable[[float], None]:
        """Return a function that scales the gates of new blocks and leaves their other weights;
        gated blocks that the base has itself move like any weight.
        """
        from react_pipeline.clip import gated_layers, scale_gates

        move_base = super().line(model, {name: start[name] for name in base_names}, base_names)
        new = {id(weight) for name, weight in model.named_parameters() if name not in base_names}
        blocks = [block for block in gated_layers(model).values() if id(block.alpha_attn) in new]
        gates = [gate for block in blocks for gate in (block.alpha_attn, block.alpha_dense)]
        trained = [gate.detach().clone() for gate in gates]

        def move_to(fraction: float) -> None:
            move_base(fraction)
            for gate, value in zip(gates, trained, strict=True):
                gate.data.copy_(value)
            if fraction < 1:
                scale_gates(blocks, fraction)

        return move_to
