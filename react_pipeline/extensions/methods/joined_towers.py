"""The image towers of two models as one. Shapes: B images, D embedding dimension of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from react_pipeline.clip import Clip, add_gated_blocks, gated_layers, load, save
from react_pipeline.settings import METHODS


class JoinedTowers(nn.Module):
    """Features (B, 2 D): the unit vectors of both towers, one after the other."""

    def __init__(self, towers: Sequence[Any], dimension: int) -> None:
        """Of towers that take the same images, each of a dimension."""
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.joint_dimension = dimension * len(towers)
        self.image_size = towers[0].image_size

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to features."""
        return torch.cat([normalize(tower(images), dim=-1) for tower in self.towers], dim=-1)


def save_joined(base: Path, clips: Sequence[Clip], folder: Path) -> None:
    """Write a model with the image towers of all and the text tower of their base."""
    clip = load(base)
    record = {
        "dimension": clip.dimension,
        "towers": [
            {"gated": len(gated_layers(one.model)), "added": one.model_cfg.get("added", [])}
            for one in clips
        ],
    }
    clip.model.visual = JoinedTowers([one.model.visual for one in clips], clip.dimension)
    clip.model_cfg["added"] = [{"method": "ensemble", "record": record}]
    save(clip, folder)


def towers_of(model: Any, record: Mapping[str, Any]) -> None:
    """Give a model of the base's architecture the towers that `save_joined` recorded."""
    towers = []
    for tower in record["towers"]:
        own = deepcopy(model)
        if tower["gated"]:
            add_gated_blocks(own, tower["gated"])
        for entry in tower["added"]:
            method: Any = METHODS[entry["method"]]
            method.reattach(own, entry["record"])
        towers.append(own.visual)
    model.visual = JoinedTowers(towers, record["dimension"])
