"""The demo's base model, as an encoder that is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.clip import Architecture, BuiltEncoder

from .packages import ENCODER_SOURCES, installed_versions

if TYPE_CHECKING:
    from torch import nn


class JoinedNetworks(BuiltEncoder):
    """An image network and a sentence encoder, joined by a ridge regression (`base`)."""

    name: ClassVar[str] = "demo"
    image_tower: ClassVar[str] = "react_demo_hybrid"
    encoded_texts: ClassVar[int] = 2_000  # about how many names ImageNet's classes have

    def packages(self) -> Mapping[str, str]:
        """What it is built from."""
        return installed_versions()

    def architecture(self) -> Architecture:
        """An image tower of its own, and MiniLM."""
        from .base import architecture

        return architecture()

    def build(self) -> tuple[nn.Module, dict[str, Any], dict[str, Any], Path]:
        """Fit the regression."""
        from .base import build_base

        return build_base()

    def register(self) -> None:
        """Importing the network registers it."""
        from . import network  # noqa: F401

    def ingredients(self) -> tuple[tuple[str, str, str], ...]:
        """The packages of weights and names."""
        return tuple((source.package, source.used, source.licence) for source in ENCODER_SOURCES)
