"""`few-shot-gda` and `few-shot-ncm`: heads that learn from shots as well as from pairs.

Does not belong here: reading shots (`few_shot_samples`), refusing those that show evaluation images
(core).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.extensions.methods.head_method import HeadMethod
from react_pipeline.extensions.methods.ncm import Ncm
from react_pipeline.stage import FEW_SHOT_SET

if TYPE_CHECKING:
    from react_pipeline.clip import Clip
    from react_pipeline.extensions.methods.head import HeadSamples
    from react_pipeline.training import Customization


class UsesShots(HeadMethod):
    """A head whose control uses the same shots, with random pairs."""

    parents = (FEW_SHOT_SET,)

    def samples(
        self, of_pairs: HeadSamples, customization: Customization, clip: Clip
    ) -> HeadSamples:
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
