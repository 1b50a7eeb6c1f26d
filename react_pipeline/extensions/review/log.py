"""The log of a review: a decision is on the disk before the page hears of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from react_pipeline.extensions.review.pairs import ReviewedPair
from react_pipeline.project import (
    ImageDecision,
    ImageVerdict,
    Project,
    current_decisions,
    read_decisions,
    review_file,
)
from react_pipeline.store import InputError, StoreWriteError, append, lock


class ReviewLog:
    """The decisions of a domain, which this process alone appends to; threads may call at once."""

    def __init__(self, project: Project, slug: str, person: str, descriptor: int) -> None:
        """Use `open_log`."""
        self._person = person
        self._file = descriptor
        self._lock = Lock()
        self._path = review_file(project, slug)
        self.decisions = current_decisions(project, slug)

    def decide(self, pair: ReviewedPair, verdict: ImageVerdict, to: str = "") -> None:
        """Record a decision.

        Raises:
            StoreWriteError: If the disk refuses it.
        """
        shown = {"image": pair.image, "url": pair.url, "label": pair.label}
        self._append(ImageDecision(**shown, verdict=verdict, to=to, by=self._person, time=_now()))

    def take_back(self) -> ImageDecision | None:
        """Take the last decision back, and return it; None if there is none."""
        last = next(reversed(self.decisions.values()), None)
        if last is not None:
            update = {"verdict": None, "to": "", "by": self._person, "time": _now()}
            self._append(last.model_copy(update=update))
        return last

    def _append(self, decision: ImageDecision) -> None:
        with self._lock:
            try:
                append(self._file, decision.model_dump_json(by_alias=True).encode() + b"\n")
            except OSError as error:
                raise StoreWriteError(
                    f"{self._path}: {error.strerror}; free space and click again"
                ) from error
            self.decisions.pop(decision.image, None)
            if decision.verdict is not None:
                self.decisions[decision.image] = decision


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def open_log(project: Project, slug: str, person: str) -> Iterator[ReviewLog]:
    """Hold the decisions of a domain open for appending.

    Raises:
        InputError: If another process has them open, or the file is not one of decisions.
        StoreWriteError: If the file cannot be written.
    """
    path = review_file(project, slug)
    read_decisions(project, slug)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreWriteError(
            f"{path}: {error.strerror}; make the folder of the domain files writable"
        ) from error
    try:
        # Whoever ends without a decision removes the empty file, while it holds the lock.
        if not lock(descriptor, wait=False) or not _is_file_of(descriptor, path):
            raise InputError(
                f"{path}: another `react-pipeline review` has it open; use its page, or stop it"
            )
        # What a kill left of a line was never acknowledged; a whole line was edited by hand.
        text, _, last = path.read_bytes().rpartition(b"\n")
        os.ftruncate(descriptor, len(text) + 1 if text else 0)
        with suppress(ValueError):
            ImageDecision.model_validate_json(last)
            append(descriptor, last + b"\n")
        yield ReviewLog(project, slug, person, descriptor)
        if not os.fstat(descriptor).st_size:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
