"""What fusing adds: towers that encode 2 to 3 times as fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from torch import Tensor, nn

    from react_pipeline.embedding import Features


class Fused(Extension):
    """Fused layers."""

    def faster_tower(
        self,
        tower: Features,
        model: nn.Module,
        probes: Sequence[Tensor],
        precision: str,
        texts: bool,
    ) -> Features:
        """The tower with fused layers where they give the same features."""
        from react_pipeline.extensions.fused.fused_tower import fuse

        return fuse(tower, model, probes, precision, texts=texts)
