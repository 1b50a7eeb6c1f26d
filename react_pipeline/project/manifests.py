"""Manifests: one look at a project, for whoever only asks what is fresh: artifacts by their
manifests, not verified.

Does not belong here: anything that reads an artifact's files as input of a step; that must verify
them.
"""

from __future__ import annotations

from functools import cached_property

from react_pipeline.project.outside import Look
from react_pipeline.project.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact, ReactError, Store


class Manifests(Project):
    """A snapshot of a project: artifacts are known by their manifests alone, and each is judged
    once.
    """

    @classmethod
    def of(cls, project: Project) -> Manifests:
        """Begin a look at a project; a look that has begun continues."""
        return project if isinstance(project, Manifests) else cls(project.path, project.config)

    @cached_property
    def judged(self) -> dict[tuple[str, str], Artifact | ReactError]:
        """What `lineage.fresh` found of a stage and key in this look."""
        return {}

    @cached_property
    def gathered(self) -> dict[tuple[str, str], Artifact | ReactError]:
        """Results of `lineage.is_current`; the overview needs that of each comparison."""
        return {}

    @cached_property
    def looks(self) -> dict[tuple[str, str], Look]:
        """How the files outside the store look, by stage and key; a folder may have a hundred
        thousand.
        """
        return {}

    @cached_property
    def store(self) -> Store:
        """The store, whose artifacts are not verified."""
        return Project(self.path, self.config).store.look()

    @cached_property
    def _domains(self) -> dict[str, DomainConfig]:
        return {}

    def domain(self, slug: str) -> DomainConfig:
        """Read a domain's file, once in this look."""
        if slug not in self._domains:
            self._domains[slug] = super().domain(slug)
        return self._domains[slug]
