"""The queue: what is still to be logged to MLflow, and for how long a server that failed is left
alone.

Entries are files of the store, artifacts and verdicts alike, so that no killed process loses one.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from react_pipeline.settings import without_secrets
from react_pipeline.store import write_atomically

VERDICT = re.compile(r"verdict--([0-9]{8})--(.+)--[0-9a-f]+")
"""Name of an entry that holds a verdict: a number that grows, the domain, the fingerprint of its
artifact.
"""

PENDING = ".pending_tracking"
"""Folder of the store with what MLflow has not taken yet."""

COOLDOWN_SECONDS = 60.0
"""After a failure a tracking server is left alone for this long, so that a slow one does not slow
every asset.
"""

_unreachable_until: dict[tuple[str, Path], float] = {}

logger = logging.getLogger(__name__)


class Queue:
    """What waits in a folder of the store for one tracking server."""

    def __init__(self, uri: str, folder: Path) -> None:
        """Nothing is written before the first `put`."""
        self.folder = folder
        self._server = uri, folder

    def put(self, name: str, entry: Mapping[str, Any]) -> Path:
        """Add an entry, once."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(entry, ensure_ascii=False))
        return path

    def put_verdict(self, slug: str, fingerprint: str, entry: Mapping[str, Any]) -> None:
        """Add a verdict behind the others, once; hold the lock of the queue."""
        waiting = [found for path in self.entries() if (found := VERDICT.fullmatch(path.stem))]
        if not any(found[0].endswith(f"--{slug}--{fingerprint}") for found in waiting):
            number = 1 + max((int(found[1]) for found in waiting), default=0)
            self.put(f"verdict--{number:08d}--{slug}--{fingerprint}", entry)

    def entries(self) -> list[Path]:
        """The files of the entries by name; hold the lock of the queue while they are read."""
        return sorted(self.folder.glob("*.json"))

    def verdicts(self) -> list[str]:
        """The domain of each verdict that waits."""
        return [found[2] for path in self.entries() if (found := VERDICT.fullmatch(path.stem))]

    def groups(self) -> list[list[Path]]:
        """The entries, longest waiting first; the verdicts of a domain stay together, in their
        order.
        """
        groups: dict[str, list[Path]] = {}
        for path in sorted(self.entries(), key=lambda path: path.stat().st_mtime):
            found = VERDICT.fullmatch(path.stem)
            groups.setdefault(found[2] if found else path.name, []).append(path)
        return [sorted(group) for group in groups.values()]

    def rests(self, *, patient: bool = False) -> bool:
        """Whether the server failed a moment ago; `patient`: try it again all the same."""
        if patient:
            _unreachable_until.pop(self._server, None)
        return time.monotonic() < _unreachable_until.get(self._server, 0.0)

    def rest(self, error: Exception) -> None:
        """Leave the server alone for `COOLDOWN_SECONDS`, and say why."""
        _unreachable_until[self._server] = time.monotonic() + COOLDOWN_SECONDS
        logger.warning(
            "MLflow at %s is unavailable, logging again at the next run: %s",
            *(without_secrets(self._server[0]), reason_of(error)),
        )


def reason_of(error: Exception) -> str:
    """The text of an error as one line of a log, without passwords of addresses in it."""
    return without_secrets(" ".join(str(error).split()))[:300]
