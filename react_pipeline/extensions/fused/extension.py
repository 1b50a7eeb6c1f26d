"""What fusing adds: towers that encode 2 to 3 times as fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.embedding import Features


class Fused(Extension):
    """Fused layers."""

    def faster_towers(self) -> Iterable[Callable[..., Features]]:
        """With fused layers, where they give the same features."""
        from react_pipeline.extensions.fused.fused_tower import fuse

        return (fuse,)
