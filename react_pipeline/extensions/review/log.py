"""The log of a review: a decision is on the disk before the page hears of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock

from react_pipeline.extensions.review.pairs import ReviewedPair
from react_pipeline.project import (
    Decision,
    Project,
    Verdict,
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

    def decide(self, pair: ReviewedPair, verdict: Verdict | None, to: str = "") -> None:
        """Record a decision; None takes the earlier one back.

        Raises:
            StoreWriteError: If the disk refuses it.
        """
        decision = Decision(
            image=pair.image,
            url=pair.url,
            label=pair.label,
            verdict=verdict,
            to=to,
            by=self._person,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._lock:
            try:
                append(self._file, decision.model_dump_json(by_alias=True).encode() + b"\n")
            except OSError as error:
                raise StoreWriteError(
                    f"{self._path}: {error.strerror}; free space and click again"
                ) from error
            self.decisions.pop(pair.image, None)
            if verdict is not None:
                self.decisions[pair.image] = decision


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
        if not lock(descriptor, wait=False):
            raise InputError(
                f"{path}: another `react-pipeline review` has it open; use its page, or stop it"
            )
        # What a kill left of a line was never acknowledged.
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
        yield ReviewLog(project, slug, person, descriptor)
    finally:
        os.close(descriptor)
