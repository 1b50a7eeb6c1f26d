"""The packages that the demo reads, what for, and under which licence; and the base model that is
built of some of them: `encoder: {model: demo}`, in place of weights that are loaded.

No third-party pictures or weights are committed: everything is read from installed packages, so the
results stay under the licences below. Importing this module imports neither torch nor the packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.installation import install_command
from react_pipeline.store import InputError

if TYPE_CHECKING:
    from torch import nn

    from .base import Architecture


@dataclass(frozen=True)
class Source:
    """One package the demo reads; `name` is what a corpus record carries as `source`."""

    name: str
    package: str
    licence: str
    used: str


TABLES = json.loads(Path(__file__).with_name("packages.json").read_bytes())
"""Packages, and the fonts of icons in them."""

CORPUS_SOURCES = tuple(Source(**source) for source in TABLES["corpus"])
"""Where the pairs of the corpus come from."""

OTHER_SOURCES = tuple(Source(**source) for source in TABLES["other"])
"""What names, weights and evaluation images come from."""

ENCODER_SOURCES = tuple(
    source
    for source in OTHER_SOURCES
    if source.name in ("efficientnet", "minilm", "imagenet-names")
)
"""What the base model is made of."""

RECIPE_VERSION = 2
"""Raised by hand when the demo makes another corpus, base or evaluation set of the same packages.
"""


def installed_versions() -> dict[str, str]:
    """Return the identity of what the demo makes: the versions of its packages, and its own.

    Raises:
        InputError: Naming the packages that are missing.
    """
    packages = sorted(source.package for source in (*CORPUS_SOURCES, *OTHER_SOURCES))
    versions = {"recipe": str(RECIPE_VERSION)}
    missing = []
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise InputError(f"the demo needs {', '.join(missing)}: {install_command('demo')}")
    return versions


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
