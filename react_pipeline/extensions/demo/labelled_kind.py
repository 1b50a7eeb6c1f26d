"""The labelled drawings of emoji, as a kind of labelled images."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from react_pipeline.labelled import LabelledKind
from react_pipeline.project import Files
from react_pipeline.settings import DomainConfig, EvaluationSetConfig
from react_pipeline.store import InputError

from .packages import installed_versions


class Drawings(LabelledKind):
    """Made of an installed package when the set is published."""

    name = "demo"
    fields = ()

    def outside(self, evaluation: EvaluationSetConfig) -> Files:
        """The versions of the packages; what was made of a package that is gone stays."""
        with suppress(InputError):
            return Files(packages=installed_versions())
        return Files()

    def made_from(self, evaluation: EvaluationSetConfig) -> Mapping[str, Any]:
        """The versions of the packages."""
        return {"demo": installed_versions()}

    def make(self, evaluation: EvaluationSetConfig, folder: Path) -> None:
        """Draw the images."""
        from .corpus import build_evaluation

        build_evaluation(evaluation.name, folder)

    def count(self, evaluation: EvaluationSetConfig, domain: DomainConfig) -> int:
        """The drawings of these classes."""
        from .evaluation import labelled_emoji

        return len(labelled_emoji(evaluation.name))
