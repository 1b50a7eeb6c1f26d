"""Looks: a store at one moment, for whoever only asks what is fresh.

Does not belong here: anything that reads files of an artifact as input of a step; that must verify
them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.store.artifacts import MANIFEST, Artifact, read_manifest
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.store import Store


class StoreLook(Store):
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
        """As of `Store`, but by the manifest and the sizes of the files."""
        path = self.directory(stage, key) / fingerprint
        if path not in self._opened:
            if not path.exists():
                raise MissingArtifact(
                    f"{path}: not there; materialize `{stage}` for {key!r}", (stage, key)
                )
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
            size = path.stat().st_size
        except OSError as error:
            raise CorruptArtifact(f"{path}: missing; rematerialize `{artifact.stage}`") from error
        if size != recorded["bytes"]:
            raise CorruptArtifact(
                f"{path}: {size:,} bytes, recorded {recorded['bytes']:,}; rematerialize "
                f"`{artifact.stage}`"
            )
