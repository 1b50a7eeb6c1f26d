"""REACT's own method, and `ModelMethod`, what methods that train a model build on.

torch is loaded only when a training begins: the table of methods is read by every command.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from react_pipeline.settings import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from react_pipeline.clip import Clip
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.training.customization import Customization


class ModelMethod(Method):
    """A method whose checkpoint holds a whole model.

    Override `trains`, and for new weights `attach` and `reattach` too.
    """

    unused_fields = frozenset({"last_k_layers", "rank"})
    spreads = True
    step0_tolerance = 1e-4  # a weight that trains takes another kernel, which rounds otherwise

    def attach(self, model: nn.Module, training: TrainingConfig) -> Mapping[str, Any] | None:
        """Add new modules to a base, in place and on its device; features must not change.

        A base may have them already, from an earlier customization; it gets no more of them.

        Returns:
            What `reattach` needs, as JSON; None if nothing was added.
        """
        return None

    def attach_to(self, clip: Clip, training: TrainingConfig) -> None:
        """Attach to a base, and note it in the configuration that `clip.save` writes."""
        record = self.attach(clip.model, training)
        if record is not None:
            note = {"method": self.name, "record": dict(record)}
            clip.model_cfg.setdefault("added", []).append(note)

    def reattach(self, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Add the same modules again, with weights of any value, when a checkpoint is loaded."""
        raise NotImplementedError

    def trains(self, name: str) -> bool:
        """Return whether the parameter of this name trains; the logit scale always does."""
        raise NotImplementedError

    def set_trainable(self, model: nn.Module) -> int:
        """Freeze everything else; return how many parameters train."""
        from react_pipeline.clip import set_trainable

        return set_trainable(model, self.trains)

    def loss(self, images: Tensor, texts: Tensor, scale: Tensor, *others: Any) -> Tensor:
        """Return the loss of a batch, by default of the field `loss`; arguments of
        `contrastive_loss`.
        """
        from react_pipeline.training.losses import contrastive_loss

        return contrastive_loss(images, texts, scale, *others)

    def watched(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Numbers to log at every step."""
        return {}

    def line(
        self, model: nn.Module, start: Mapping[str, Tensor], base_names: Collection[str]
    ) -> Callable[[float], None]:
        """Return a function that moves a trained model to base + fraction * (trained - base); 0 and
        1 give either end's features bit for bit. New modules change no feature where the training
        begins, so their weights there are the base too.

        Args:
            start: Weights that train, by name, when the training began; others stay.
            base_names: Names of the weights that the base has.
        """
        import torch

        moved = [
            (parameter, start[name], parameter.detach().clone())
            for name, parameter in model.named_parameters()
            if name in start and not torch.equal(parameter.detach(), start[name].to(parameter))
        ]

        def move_to(fraction: float) -> None:
            for parameter, before, trained in moved:
                # Exact at both ends.
                parameter.data.copy_(torch.lerp(before.to(trained), trained, fraction))

        return move_to

    def merge(self, model: nn.Module) -> None:
        """Make new modules part of the base's weights, before the model is saved; by default they
        stay.
        """

    def train(self, customization: Customization) -> dict[str, Any]:
        """Train on the images of the pairs; process 0 writes the model and its log."""
        from react_pipeline.clip import load, loaded_base, save
        from react_pipeline.training.train import train_model

        loaded_base.cache_clear()
        clip = load(customization.base.path, customization.world.device)
        counts = train_model(self, customization, clip)
        if customization.staging is not None:
            self.merge(clip.model)
            save(clip, customization.staging)
        return counts


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

        of_base = {name: weight for name, weight in start.items() if name in base_names}
        move_base = super().line(model, of_base, base_names)
        is_new = not any(".gated_attn_block." in name for name in base_names)
        blocks = gated_layers(model).values() if is_new else ()
        trained = {
            gate: gate.detach().clone()
            for block in blocks
            for gate in (block.alpha_attn, block.alpha_dense)
        }

        def move_to(fraction: float) -> None:
            move_base(fraction)
            for gate, value in trained.items():
                gate.data.copy_(value)
            if fraction < 1:
                scale_gates(blocks, fraction)

        return move_to
