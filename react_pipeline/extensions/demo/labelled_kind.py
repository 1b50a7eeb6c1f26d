"""The labelled drawings of emoji, as a kind of labelled images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from react_pipeline.settings import DomainConfig, DrawnSetConfig

from .packages import installed_versions


class Drawings(DrawnSetConfig):
    """Made of an installed package when the set is published."""

    kind: Literal["demo"] = "demo"

    def packages(self) -> Mapping[str, str]:
        """Those that are drawn from."""
        return installed_versions()

    def made_from(self) -> Mapping[str, Any]:
        """The versions of the packages."""
        return {"demo": installed_versions()}

    def make(self, folder: Path) -> None:
        """Draw the images."""
        from .corpus import build_evaluation

        build_evaluation(self.name, folder)

    def count(self, domain: DomainConfig) -> int:
        """The drawings of these classes."""
        from .evaluation import labelled_emoji

        return len(labelled_emoji(self.name))
