"""`ensemble`: nothing is trained; the scores of two methods are added, with a weight that held-out
pairs choose.

Does not belong here: choosing the weight (`joining`), the towers of two models (`joined_towers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.methods.head_method import HeadMethod
from react_pipeline.settings import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from react_pipeline.training import CheckpointCost, Customization, PlannedTraining


class Ensemble(HeadMethod):
    """A head on the features of both methods; its control joins their controls.

    Two heads of the base make one head. Otherwise the checkpoint holds both image towers too.
    """

    name = "ensemble"
    summary = (
        "nothing: the scores of two methods are added, with a weight that held-out pairs choose"
    )
    colour = "#b8860b"
    unused_fields = frozenset(TrainingConfig.model_fields)
    of = ()

    def train(self, customization: Customization) -> dict[str, Any]:
        """Choose the weight and write the joined head; only process 0 does."""
        from react_pipeline.extensions.methods.joining import join_methods

        if customization.staging is None:
            return {}
        return join_methods(customization, self.of or (), customization.staging)

    def reattach(self, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Both image towers in the place of the base's, when a checkpoint is loaded."""
        from react_pipeline.extensions.methods.joined_towers import towers_of

        towers_of(model, record)

    def cost(self, planned: PlannedTraining) -> CheckpointCost:
        """Two image towers at most are written."""
        from react_pipeline.training import CheckpointCost

        texts = (planned.names + planned.prompts) * planned.text_seconds
        return CheckpointCost(towers=texts, disk=2 * planned.weights_bytes)
