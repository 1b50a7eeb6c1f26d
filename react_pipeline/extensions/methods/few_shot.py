"""`few-shot-gda`, `few-shot-ncm` and `swat`: heads that learn from shots beside the pairs.

Does not belong here: reading shots (`few_shot_samples`), refusing those that show evaluation images
(core).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.extensions.methods.head_method import HeadMethod
from react_pipeline.extensions.methods.linear_head import LinearHead
from react_pipeline.extensions.methods.ncm import Ncm
from react_pipeline.stage import FEW_SHOT_SET

if TYPE_CHECKING:
    from react_pipeline.clip import ClassHead, Clip
    from react_pipeline.extensions.methods.few_shot_samples import FewShotSamples
    from react_pipeline.extensions.methods.head import HeadSamples
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.training import Customization, TrainingLog


class UsesShots(HeadMethod):
    """A head whose control uses the same shots, with random pairs."""

    parents = (FEW_SHOT_SET,)

    def samples(
        self, of_pairs: HeadSamples, customization: Customization, clip: Clip
    ) -> FewShotSamples:
        """The pairs, and the shots as often as a class has pairs."""
        from react_pipeline.extensions.methods.few_shot_samples import with_shots

        return with_shots(of_pairs, customization, clip)


class FewShotGda(UsesShots, Gda):
    """`gda` with shots in means and covariance."""

    name = "few-shot-gda"
    summary = "nothing: class means and one covariance of pairs and shots give vectors and biases"
    colour = "#e07a8b"


class FewShotNcm(UsesShots, Ncm):
    """`ncm` with shots in the means."""

    name = "few-shot-ncm"
    summary = (
        "nothing: the mean image of a class's pairs and shots is its vector, joined with its text"
    )
    colour = "#b3b7be"


class Swat(UsesShots, LinearHead):
    """`linear-head` on pairs and shots, then on shots alone.

    Source: Liu et al. 2024 (arXiv 2406.11148). Different here: both stages train the head alone.
    """

    name = "swat"
    summary = "one vector per class, on pairs and shots, then on shots; the model is the base's"
    colour = "#58b5aa"

    def fit(
        self, samples: HeadSamples, training: TrainingConfig, log: TrainingLog
    ) -> tuple[ClassHead, dict[str, Any]]:
        """Half of the steps on all images, the other half on shots, each with its own schedule."""
        from react_pipeline.extensions.methods.head_steps import take_steps

        of: FewShotSamples = samples  # type: ignore[assignment]  # from the method above
        first = training.model_copy(update={"steps": (training.steps + 1) // 2})
        second = training.model_copy(update={"steps": training.steps // 2})
        head, counts = take_steps(of, first, log)
        shots = replace(
            of,
            zero_shot=head.vectors,
            images=of.shots,
            captions=of.zero_shot.T[of.shot_ids],
            class_ids=of.shot_ids,
        )
        return take_steps(shots, second, log, first.steps)[0], counts
