"""The base of methods that train a part of the model: weights of its own, or new ones."""

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
            added = clip.model_cfg.setdefault("added", [])
            added.append({"method": self.name, "record": dict(record)})

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
        """Return a function that moves a trained model to base + fraction * (trained - base).

        Args:
            start: Weights when the training began, by name, those of new modules too.
            base_names: Names of the weights that the base has.
        """
        from react_pipeline.training.interpolation import line

        return line(model, start)

    def merge(self, model: nn.Module) -> None:
        """Make new modules part of the base's weights, before the model is saved; by default they
        stay.
        """

    def train(self, customization: Customization) -> dict[str, Any]:
        """Train on the images of the pairs; process 0 writes the model and its log."""
        from react_pipeline.clip import WEIGHTS_FILE, load, loaded_base, save
        from react_pipeline.training.train import train_model

        loaded_base.cache_clear()
        base = customization.base
        clip = load(base.path, customization.world.device)
        counts = train_model(self, customization, clip, base.file(WEIGHTS_FILE))
        if customization.staging is not None:
            self.merge(clip.model)
            save(clip, customization.staging)
        return counts
