"""What methods add: other ways to customize a model, to compare REACT with."""

from __future__ import annotations

from collections.abc import Iterable

from react_pipeline.extension import Extension
from react_pipeline.settings import Method


class Methods(Extension):
    """Heads on the base's vectors, gated blocks, low-rank weights, and whole towers."""

    def methods(self) -> Iterable[Method]:
        """The linear head, those that train a model, and other heads."""
        from react_pipeline.extensions.methods.few_shot import FewShotGda, FewShotNcm
        from react_pipeline.extensions.methods.gda import Gda
        from react_pipeline.extensions.methods.linear_head import LinearHead
        from react_pipeline.extensions.methods.lora import LoraBoth, LoraImage
        from react_pipeline.extensions.methods.ncm import Ncm
        from react_pipeline.extensions.methods.towers import (
            Full,
            GatedBoth,
            LockedImage,
            LockedText,
        )

        yield LinearHead()
        yield from (GatedBoth(), LoraImage(), LoraBoth(), LockedText(), LockedImage(), Full())
        yield from (Gda(), Ncm(), FewShotGda(), FewShotNcm())
