"""Looks: a store at one moment, for whoever only asks what is fresh.

Does not belong here: anything that reads files of an artifact as input of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.store import Store


class StoreLook(Store):
    """Asks for each pointer and each artifact once. Nothing is built in it: what is published later
    is in later looks.
    """

    def __init__(self, store: Store) -> None:
        """Begin a look."""
        self.backend = store.backend.look()
        self._store = store
        self._pointers = dict[tuple[str, str], str | None]()
        self._keys = dict[str, list[str]]()
        self._opened = dict[str, Artifact]()

    def _artifact(self, manifest: Mapping[str, Any]) -> Artifact:
        return Artifact(self._store, manifest)  # whose files may be asked for later

    def pointer(self, stage: str, key: str) -> str | None:
        """As of `Store`, but of one moment."""
        if (stage, key) not in self._pointers:
            self._pointers[stage, key] = super().pointer(stage, key)
        return self._pointers[stage, key]

    def keys(self, stage: str) -> list[str]:
        """As of `Store`, but of one moment."""
        if stage not in self._keys:
            self._keys[stage] = super().keys(stage)
        return self._keys[stage]

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """As of `Store`; files that are missing or of another size are noticed."""
        place = f"{stage}/{key}/{fingerprint}"
        if place not in self._opened:
            artifact = super().open(stage, key, fingerprint)
            self.require_files(artifact)
            self._opened[place] = artifact
        return self._opened[place]
