"""Manifests: one look at a project, for whoever only asks what is fresh: artifacts by their
manifests, not verified.

Does not belong here: anything that reads an artifact's files as input of a step; that must verify
them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.project.outside import Look
from react_pipeline.project.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import (
    MANIFEST,
    Artifact,
    BucketStore,
    CorruptArtifact,
    MissingArtifact,
    ReactError,
    Store,
    read_manifest,
)


class Manifests(Project):
    """A snapshot of a project: artifacts are known by their manifests alone, and each is judged
    once.
    """

    @classmethod
    def of(cls, project: Project) -> Manifests:
        """The same project, looked at from now on; a look that has begun continues."""
        return project if isinstance(project, Manifests) else cls(project.path, project.config)

    @cached_property
    def judged(self) -> dict[tuple[str, str], Artifact | ReactError]:
        """What `lineage.fresh` found of a stage and key in this look."""
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
        store = Project(self.path, self.config).store
        return store.look() if isinstance(store, BucketStore) else _ManifestStore(store.root)

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

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        return {}

    def keys(self, stage: str) -> list[str]:
        """As of `Store`, but of one moment."""
        if stage not in self._keys:
            self._keys[stage] = super().keys(stage)
        return self._keys[stage]

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        path = self.directory(stage, key) / fingerprint
        if path not in self._opened:
            if not path.exists():
                raise MissingArtifact(f"{path}: not there; materialize `{stage}` for {key!r}")
            artifact = Artifact(path, _manifest(path, stage))
            _require_sizes(artifact)
            self._opened[path] = artifact
        return self._opened[path]

    @cached_property
    def _opened(self) -> dict[Any, Artifact]:
        return {}


def _manifest(path: Path, stage: str) -> dict[str, Any]:
    """As `read_manifest`, but parsed once in this process for as long as the file is the same."""
    try:
        stat = (path / MANIFEST).stat()
    except OSError:
        return read_manifest(path, stage)
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if path not in _parsed or _parsed[path][0] != stamp:
        _parsed[path] = stamp, read_manifest(path, stage)
    return _parsed[path][1]


_parsed: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}


def _require_sizes(artifact: Artifact) -> None:
    """What is visible without reading: a missing or truncated file makes the artifact one to build
    again.
    """
    for name, recorded in artifact.manifest["files"].items():
        path = artifact.path / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise CorruptArtifact(f"{path}: missing; rematerialize `{artifact.stage}`") from error
        if found != recorded["bytes"]:
            raise CorruptArtifact(
                f"{path}: {found:,} bytes, recorded {recorded['bytes']:,}; rematerialize "
                f"`{artifact.stage}`"
            )
