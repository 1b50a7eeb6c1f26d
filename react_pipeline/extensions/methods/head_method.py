"""The base of methods that fit a classifier to what the frozen base makes of images and texts.

Shapes: N pairs, C classes, D embedding dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from react_pipeline.settings import Method, TrainingConfig

if TYPE_CHECKING:
    from react_pipeline.clip import ClassHead, Clip
    from react_pipeline.extensions.methods.head_samples import HeadSamples
    from react_pipeline.training import Customization, TrainingLog

FIELDS = frozenset({"seed", "held_out_fraction", "interpolation"})
"""Fields of `TrainingConfig` that every head uses."""


def all_but(*fields: str) -> frozenset[str]:
    """Every field of `TrainingConfig` but those of every head and these: `unused_fields`."""
    return frozenset(TrainingConfig.model_fields) - FIELDS - {*fields}


class HeadMethod(Method):
    """A method whose checkpoint holds a head: class vectors, and a bias if it has one. Override
    `fit`.

    A head with fields of its own for its steps names them in `unused_fields = all_but(...)`.

    Attributes:
        grid: What `interpolation: held-out` tries.
        without_held_out: The interpolation where `held-out` is only the default, and no pair can be
            held out.
    """

    unused_fields = all_but()
    identity = {"head": 5}  # raised when what all heads share changes their content
    has_model = False
    by_class = True
    step0_tolerance = 1e-4  # a vector of length 1 is made so again
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    without_held_out: float = 0.5

    def images(self, training: TrainingConfig, pairs: int) -> int:
        """Every pair once, if the head takes no steps."""
        return pairs if self.is_closed_form else super().images(training, pairs)

    @property
    def is_closed_form(self) -> bool:
        """Whether it takes no steps."""
        return "steps" in self.unused_fields

    def samples(
        self, of_pairs: HeadSamples, customization: Customization, clip: Clip
    ) -> HeadSamples:
        """What `fit` learns from: the pairs, and whatever a method adds to them."""
        return of_pairs

    def fit(
        self, samples: HeadSamples, training: TrainingConfig, log: TrainingLog
    ) -> tuple[ClassHead, dict[str, Any]]:
        """Fit a head.

        Args:
            samples: What to learn from, and the zero-shot head.
            training: With its length in steps.
            log: Takes a record of each step; of a closed form it gets one record afterwards.

        Returns:
            The head, and counts for the manifest.
        """
        raise NotImplementedError

    def join(self, zero_shot: ClassHead, trained: ClassHead, fraction: float) -> ClassHead:
        """The head on the way from the zero-shot head (0) to the trained one (1): unit vectors.

        Both ends are exact, and so is a column in which the two heads are the same.
        """
        import torch
        from torch.nn.functional import normalize

        if fraction in (0, 1):
            return trained if fraction else zero_shot
        joined = normalize(torch.lerp(zero_shot.vectors, trained.vectors, fraction), dim=0)
        same = (zero_shot.vectors == trained.vectors).all(dim=0)
        return trained._replace(vectors=torch.where(same, zero_shot.vectors, joined))

    def train(self, customization: Customization) -> dict[str, Any]:
        """Fit on the vectors of the pairs; only process 0 does."""
        from react_pipeline.clip import loaded_base
        from react_pipeline.extensions.methods.head import train_head
        from react_pipeline.extensions.methods.head_samples import PairVectors

        c = customization
        if c.staging is None:
            return {}
        clip = loaded_base(c.base.path, c.world.device)
        return train_head(self, c, clip, PairVectors.of(c, clip))
