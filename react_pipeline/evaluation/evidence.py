"""Evidence on a domain's models apart from results on labelled images.

Belongs here: what evidence offers. Does not belong here: any evidence, its columns in comparisons
(`tables`), the rule for models without labelled images (`promotion`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.project import Project
from react_pipeline.store import Artifact, Inputs

if TYPE_CHECKING:
    from react_pipeline.promotion import Contender, Judgement


class Evidence(ABC):
    """Evidence on the models of one domain, as it is today.

    Attributes:
        inputs: Of the artifact that keeps it. Its stage is its name among parents.
        columns: Which of `tables.EVIDENCE_DIFFERENCES` it fills.
        title: Heading of its section on a page.
        explanation: How it was obtained, and what its intervals mean.
        decides: Whether it may `judge` where there are no labelled images; else it may only object.
    """

    inputs: Inputs
    columns: ClassVar[tuple[str, ...]]
    title: ClassVar[str]
    explanation: ClassVar[str]
    decides: ClassVar[bool] = False

    @abstractmethod
    def publish(self, project: Project) -> Artifact:
        """Publish it; the artifact that is there already if nothing is new."""

    @abstractmethod
    def rows(self, checkpoints: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the values of its columns by method, and the `status` of a method without labelled
        images.

        Args:
            checkpoints: Fingerprints of today's checkpoints, by method.
        """

    @abstractmethod
    def sentences(self, checkpoint: str = "") -> list[str]:
        """Return each comparison in a sentence; of one checkpoint, or of all."""

    def objection(self, project: Project, contender: Contender) -> str:
        """Return why a candidate may not become champion, whatever its result; "" if it may."""
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


def collect_evidence(project: Project, slug: str) -> dict[str, Evidence]:
    """Return the evidence on a domain's models as it is today, by the stage of its artifact."""
    from react_pipeline.extensions import guards, pages

    evidence: dict[str, Evidence] = {}
    # Most projects have no guard sets, and automation asks every minute.
    if project.config.section(guards.GuardsConfig).sets:
        evidence[guards.GUARD_DROPS] = guards.read_drops(project, slug)
    if judgements := pages.read_judgements(project, slug):
        evidence[pages.JUDGEMENTS] = judgements
    return evidence
