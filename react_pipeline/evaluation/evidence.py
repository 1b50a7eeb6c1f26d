"""Evidence on a domain's models apart from results on labelled images.

Belongs here: what evidence offers, and the columns that it adds to comparisons. Does not belong
here: any evidence, the rule for models without labelled images (`promotion`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.project import Project
from react_pipeline.store import Artifact, Inputs

if TYPE_CHECKING:
    import pandas as pd

    from react_pipeline.evaluation.findings import Finding
    from react_pipeline.promotion import Contender, Judgement


@dataclass(frozen=True)
class Column:
    """A column that evidence adds to comparisons.

    Attributes:
        name: Of a difference of fractions, which has bounds `<name>_low` and `<name>_high`, or of a
            count.
        heading: As people read it.
    """

    name: str
    heading: str
    is_count: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table: value and bounds."""
        if self.is_count:
            return (self.name,)
        return self.name, f"{self.name}_low", f"{self.name}_high"


class Evidence(ABC):
    """Evidence on the models of one domain, as it is today.

    Attributes:
        inputs: Of the artifact that keeps it. Its stage is its name among parents.
        columns: What it adds to comparisons.
        title: Heading of its section on a page.
        explanation: How it was obtained, and what its intervals mean.
        decides: Whether it may `judge` where there are no labelled images; else it may only object.
        enforces: The field of `promotion` that its objections enforce.
    """

    inputs: Inputs
    columns: ClassVar[tuple[Column, ...]]
    title: ClassVar[str]
    explanation: ClassVar[str]
    decides: ClassVar[bool] = False
    enforces: ClassVar[str] = ""

    @abstractmethod
    def publish(self, project: Project) -> Artifact:
        """Publish it; the artifact that is there already if nothing is new."""

    @abstractmethod
    def rows(self, checkpoints: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
        """Values of its columns by method, and the `status` of a method without labelled images.

        Args:
            checkpoints: Fingerprints of today's checkpoints, by method.
        """

    @abstractmethod
    def sentences(self, checkpoint: str = "") -> list[str]:
        """Each comparison in a sentence; of one checkpoint, or of all."""

    def finding(self, table: pd.DataFrame) -> Finding | None:
        """What a page says at its head where nothing was measured."""
        return None

    def objection(self, project: Project, contender: Contender) -> str:
        """Why a candidate may not become champion, whatever its result; "" if it may."""
        return ""

    def models(self, project: Project) -> Mapping[str, str]:
        """Return the fingerprints of today's models that `judge` tests, by name. A decision is
        repeated when they change.
        """
        return {}

    def judge(
        self,
        project: Project,
        champion: Contender,
        champion_name: str,
        turned_down: Collection[str],
    ) -> Judgement:
        """Test candidates against the champion of a domain without labelled images.

        Args:
            champion_name: How the reason names it.
            turned_down: Checkpoints that may not become champion.
        """
        raise NotImplementedError


def evidence_of(project: Project, slug: str) -> dict[str, Evidence]:
    """Return the evidence on a domain's models as it is today, by the stage of its artifact."""
    from react_pipeline.extensions import guards, judging

    evidence: dict[str, Evidence] = {}
    # Most projects have no guard sets, and automation asks every minute.
    if project.config.section(guards.GuardsConfig).sets and (
        drops := guards.drops_of(project, slug)
    ):
        evidence[guards.GUARD_DROPS] = drops
    if judgements := judging.judgements_of(project, slug):
        evidence[judging.JUDGEMENTS] = judgements
    return evidence


def added_columns() -> tuple[Column, ...]:
    """Return what evidence of any kind adds to comparisons."""
    from react_pipeline.extensions import guards, judging

    return (*guards.COLUMNS, *judging.COLUMNS)


def added_differences() -> tuple[Column, ...]:
    """Those of `added_columns` that are differences with bounds."""
    return tuple(column for column in added_columns() if not column.is_count)
