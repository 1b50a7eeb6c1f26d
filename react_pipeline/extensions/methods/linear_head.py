"""`linear-head`: one vector per class, trained on what the frozen base makes of the pairs.

Source: REAL (Parashar et al. 2024, arXiv 2401.12425): a linear classifier on the features of a
class-balanced retrieved set, trained across modalities (Lin et al. 2023, arXiv 2301.06267: texts
are samples of a class as its images are) and joined with the zero-shot classifier. Different here:
classes are balanced by drawing, not by cutting them to one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.methods.head_method import HeadMethod, all_but

if TYPE_CHECKING:
    from react_pipeline.clip import ClassHead
    from react_pipeline.extensions.methods.head_samples import HeadSamples
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.training import TrainingLog


class LinearHead(HeadMethod):
    """The cheapest method: seconds on a processor."""

    name = "linear-head"
    summary = "one vector per class, on what the base makes of images; the model is the base's"
    defaults = {
        "learning_rate": 1e-3,
        "steps": 500,
        "held_out_fraction": 0.1,
        "interpolation": "held-out",
    }
    unused_fields = all_but(
        "learning_rate", "weight_decay", "warmup_steps", "steps", "epochs", "batch_size"
    )

    def fit(
        self, samples: HeadSamples, training: TrainingConfig, log: TrainingLog
    ) -> tuple[ClassHead, dict[str, Any]]:
        """Take steps of cross-entropy from the zero-shot head."""
        from react_pipeline.extensions.methods.head_steps import take_steps

        return take_steps(samples, training, log)
