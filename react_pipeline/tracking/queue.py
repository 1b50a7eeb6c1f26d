"""The queue: what is still to be logged to MLflow, and for how long a server that failed is left
alone.

Entries are files of the store, one for each artifact, so that no killed process loses one.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from react_pipeline.settings import without_secrets
from react_pipeline.stage import PROMOTION
from react_pipeline.store import write_atomically

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

    def entries(self) -> list[Path]:
        """The files of the entries."""
        return list(self.folder.glob("*.json"))

    def verdicts(self, slug: str = "*") -> list[Path]:
        """The entries of verdicts, of one domain or of all."""
        return list(self.folder.glob(f"{PROMOTION}--{slug}--*.json"))

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


def outages() -> tuple[type[Exception], ...]:
    """What is raised where MLflow cannot be reached or written now: no fault of who asks."""
    from mlflow.exceptions import MlflowException

    return MlflowException, sqlite3.Error, OSError


def reason_of(error: Exception) -> str:
    """The text of an error as one line of a log, without passwords of addresses in it."""
    return without_secrets(" ".join(str(error).split()))[:300]
