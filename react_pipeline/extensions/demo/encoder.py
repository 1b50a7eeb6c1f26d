"""The demo's base model: `encoder: {model: demo}` builds it in place of weights that are loaded.

Heavy imports are inside its methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .packages import ENCODER_SOURCES, installed_versions

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from torch import nn

    from .base import Architecture


class JoinedNetworks:
    """An image network and a sentence encoder, joined by a ridge regression (`base`).

    Attributes:
        image_tower: timm's name of the architecture that `register` adds.
    """

    name = "demo"
    image_tower = "react_demo_hybrid"

    def packages(self) -> Mapping[str, str]:
        """Return its identity, the versions of what it is built from.

        Raises:
            InputError: Naming the packages that are missing.
        """
        return installed_versions()

    def architecture(self) -> Architecture:
        """Return what it is, without weights; errors as of `packages`."""
        from .base import architecture

        return architecture()

    def build(self) -> tuple[nn.Module, dict[str, Any], dict[str, Any], Path]:
        """Fit the regression; equal packages give equal weights."""
        from .base import build_base

        return build_base()

    def register(self) -> None:
        """Make `image_tower` known to timm."""
        from . import network  # noqa: F401

    def ingredients(self) -> tuple[tuple[str, str, str], ...]:
        """Return the packages of weights and names, for the card: name, what of it, licence."""
        return tuple((source.package, source.used, source.licence) for source in ENCODER_SOURCES)
