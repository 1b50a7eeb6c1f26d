"""Manifests: a project looked at without reading what its artifacts hold, beyond the sizes of their files.

Belongs here: the view for whoever only asks what is fresh. Does not belong here: anything that goes on to read an
artifact's files as input of a step; that must verify them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from react_pipeline.project.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, Store, read_manifest


class Manifests(Project):
    """A project whose artifacts are known by their manifests alone, and whose domains are read once."""

    @classmethod
    def of(cls, project: Project) -> Manifests:
        """The same project, looked at from now on."""
        return cls(project.path, project.config)

    @cached_property
    def store(self) -> Store:
        """The store, whose artifacts are not verified."""
        return _ManifestStore(self.config.store)

    @cached_property
    def _domains(self) -> dict[str, DomainConfig]:
        return {}

    def domain(self, slug: str) -> DomainConfig:
        """As of `Project`, but of one moment."""
        if slug not in self._domains:
            self._domains[slug] = super().domain(slug)
        return self._domains[slug]


class _ManifestStore(Store):
    """Opens without hashing, and each manifest once: embeddings of a web corpus are terabytes."""

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        path = self.directory(stage, key) / fingerprint
        if path not in self._opened:
            if not path.exists():
                raise MissingArtifact(f"{path}: not there; materialize `{stage}` for {key!r}")
            artifact = Artifact(path, read_manifest(path, stage))
            _require_sizes(artifact)
            self._opened[path] = artifact
        return self._opened[path]

    @cached_property
    def _opened(self) -> dict[Any, Artifact]:
        return {}


def _require_sizes(artifact: Artifact) -> None:
    """What can be told without reading: a file that was lost or cut short makes the artifact one to build again."""
    for name, recorded in artifact.manifest["files"].items():
        path = artifact.path / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise CorruptArtifact(f"{path}: missing; rematerialize `{artifact.stage}`") from error
        if found != recorded["bytes"]:
            raise CorruptArtifact(
                f"{path}: {found:,} bytes, recorded {recorded['bytes']:,}; rematerialize `{artifact.stage}`"
            )
