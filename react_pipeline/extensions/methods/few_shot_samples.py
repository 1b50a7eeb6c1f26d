"""Shots as samples of a head. Shapes: N pairs, S shots, C classes, D embedding dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from react_pipeline.clip import Clip
from react_pipeline.extensions.methods.head import HeadSamples
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.stage import FEW_SHOT_SET
from react_pipeline.training import Customization


def with_shots(of: HeadSamples, customization: Customization, clip: Clip) -> HeadSamples:
    """Add the shots of a domain, as the base encodes them."""
    config = customization.project.config
    images = read_images(
        customization.inputs.parents[FEW_SHOT_SET], customization.domain.with_shots
    )
    vectors = torch.from_numpy(encode_images(config, clip, images))
    return joined(of, vectors, torch.tensor(images["class_id"].to_numpy(), dtype=torch.long))


def joined(of: HeadSamples, shots: Tensor, shot_ids: Tensor) -> HeadSamples:
    """Pairs and shots of equal weight: those of a class are repeated until they are as many as its
    pairs. The class's text is the caption of a shot.
    """
    classes = of.zero_shot.shape[1]
    pairs, own = (torch.bincount(ids, minlength=classes) for ids in (of.class_ids, shot_ids))
    times = (pairs / own.clamp(min=1)).round().long().clamp(min=1)
    rows = torch.arange(len(shots)).repeat_interleave(times[shot_ids])
    return HeadSamples(
        of.zero_shot,
        torch.cat([of.images, shots[rows]]),
        torch.cat([of.captions, of.zero_shot.T[shot_ids[rows]]]),
        torch.cat([of.class_ids, shot_ids[rows]]),
        of.prompts,
        of.prompt_ids,
    )
