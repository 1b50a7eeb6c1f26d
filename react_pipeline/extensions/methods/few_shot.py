"""`few-shot-gda` and `few-shot-ncm`: heads that learn from shots as well as from pairs.

Does not belong here: refusing shots that show evaluation images (core).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.extensions.methods.head_method import HeadMethod
from react_pipeline.extensions.methods.ncm import Ncm
from react_pipeline.stage import FEW_SHOT_SET

if TYPE_CHECKING:
    from torch import Tensor

    from react_pipeline.clip import Clip
    from react_pipeline.extensions.methods.head_samples import HeadSamples
    from react_pipeline.training import Customization

PAIRS_OF_A_SHOT = 8
"""A labelled picture of the domain says more than a pair from the web, but one that weighs as much
as all pairs of its class costs accuracy. Chosen among 1 to 32 on Grocery's train photographs.
"""


class UsesShots(HeadMethod):
    """A head whose control uses the same shots, with random pairs."""

    parents = (FEW_SHOT_SET,)

    def samples(
        self, of_pairs: HeadSamples, customization: Customization, clip: Clip
    ) -> HeadSamples:
        """The pairs, and the shots as the base encodes them."""
        import torch

        from react_pipeline.labelled import encode_images, read_images

        domain, config = customization.domain, customization.project.config
        images = read_images(customization.inputs.parents[FEW_SHOT_SET], domain.with_shots)
        shots = torch.from_numpy(encode_images(config, clip, images))
        return joined(of_pairs, shots, torch.tensor(images["class_id"].to_numpy()))


def joined(of: HeadSamples, shots: Tensor, shot_ids: Tensor) -> HeadSamples:
    """Add shots (S, D), each `PAIRS_OF_A_SHOT` times. The class's text is the caption."""
    from torch import cat

    shots, ids = (one.repeat_interleave(PAIRS_OF_A_SHOT, dim=0) for one in (shots, shot_ids))
    return replace(
        of,
        images=cat([of.images, shots]),
        captions=cat([of.captions, of.zero_shot.T[ids]]),
        class_ids=cat([of.class_ids, ids]),
    )


class FewShotGda(UsesShots, Gda):
    """`gda` with shots in means and covariance."""

    name = "few-shot-gda"
    summary = "nothing: class means and one covariance of pairs and shots give vectors and biases"


class FewShotNcm(UsesShots, Ncm):
    """`ncm` with shots in the means."""

    name = "few-shot-ncm"
    summary = (
        "nothing: the mean image of a class's pairs and shots is its vector, joined with its text"
    )
