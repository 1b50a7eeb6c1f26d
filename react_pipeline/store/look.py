"""Looks: a store at one moment, for whoever only asks what is fresh.

Does not belong here: anything that reads files of an artifact as input of a step; that must verify
them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorruptArtifact
from react_pipeline.store.store import Store


class StoreLook(Store):
    """Opens without hashing, and each artifact once: embeddings of a web corpus are terabytes.

    Nothing is built in it: what is published later is in later looks.
    """

    def __init__(self, root: Path) -> None:
        """Begin a look."""
        super().__init__(root)
        self._names = dict[str, Collection[str]]()
        self._pointers = dict[str, str | None]()
        self._keys = dict[str, list[str]]()
        self._opened = dict[str, Artifact]()

    def pointer(self, stage: str, key: str) -> str | None:
        """As of `Store`, but of one moment."""
        place = f"{stage}/{key}"
        if place not in self._pointers:
            # A listing of a domain says at once which of all methods were never measured.
            folder, _, name = place.rpartition("/")
            if folder not in self._names:
                self._names[folder] = _names_in(self.root / folder)
            is_there = name in self._names[folder]
            self._pointers[place] = super().pointer(stage, key) if is_there else None
        return self._pointers[place]

    def keys(self, stage: str) -> list[str]:
        """As of `Store`, but of one moment."""
        if stage not in self._keys:
            self._keys[stage] = super().keys(stage)
        return self._keys[stage]

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """As of `Store`, but by the manifest and the sizes of the files."""
        place = f"{stage}/{key}/{fingerprint}"
        if place not in self._opened:
            artifact = self.unverified(stage, key, fingerprint)
            _require_sizes(artifact)
            self._opened[place] = artifact
        return self._opened[place]


def _names_in(folder: Path) -> Collection[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return ()


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
