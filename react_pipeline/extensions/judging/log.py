"""The log of a judgement: what a person said of the pictures on which two models disagree, and what
follows from it.

Does not belong here: which pictures disagree (`prepare`), the artifact (`judgements`).

The first line holds both models and every picture on which they disagree, in random order; each
line after it is one answer to the next picture, or takes the last answer back. Lines are on the
disk before they are acknowledged, and a line that a kill cut short is ignored. Shapes: N pictures,
D of them disagreements, T answers.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from react_pipeline.evaluation import sign_test
from react_pipeline.extensions.judging.confidence_sequence import Values, p_value, sum_bounds
from react_pipeline.store import (
    CorruptArtifact,
    InputError,
    StoreWriteError,
    append,
    lock,
    write_atomically,
)

NEITHER, UNSURE = "neither", "unsure"
Answer = int | Literal["neither", "unsure"]
"""The class id that was chosen, or none of both, or not known."""

CONFIDENCE = 0.95
"""Confidence of the bounds that pages and tables show."""

FORECAST_STEP = 10
"""Answers between two forecasts of how many are left."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Line):
    """One of the two models; `checkpoint` is the fingerprint of its artifact."""

    method: str
    checkpoint: str


class Disagreement(_Line):
    """A picture, and the class id that each model gives it."""

    path: str
    candidate: int
    against: int


class Header(_Line):
    """The first line.

    Attributes:
        measure: Class names and templates that both models classified by.
        source: The pictures, as the user named them.
        images: N, those that could be read.
        pictures: D, in the order in which they are shown.
    """

    format: Literal[1] = 1
    domain: str
    measure: dict[str, Any]
    candidate: Side
    against: Side
    source: str
    images: int
    unreadable: int = 0
    pictures: tuple[Disagreement, ...]
    created: str


class Entry(_Line):
    """A later line: the answer to a picture by its number; None takes the last answer back."""

    picture: int
    answer: Answer | None
    judge: str
    time: str


@dataclass(frozen=True)
class Difference:
    """Accuracy of the candidate less that of the other over all N pictures, as fractions of N.

    Attributes:
        estimate: `unsure` counts as a tie.
        low: Lower bound; `unsure` counts as lost, so it holds whatever these pictures are.
        high: Upper bound; `unsure` counts as won.
        p_value: Of "not better": the larger of the sequence's, valid at any moment, and that of the
            exact test.
        clear: Whether the bounds exclude 0 and the exact test agrees, or nothing is left to judge.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    clear: bool


@dataclass(frozen=True)
class Session:
    """One log, read: its bytes, its header, and the answers that were not taken back, in the order
    of the pictures.
    """

    path: Path
    data: bytes = field(repr=False)
    header: Header
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a log as far as it is complete.

        Raises:
            CorruptArtifact: If it is none.
        """
        try:
            whole, _, _torn = path.read_bytes().rpartition(b"\n")
            first, *rest = whole.split(b"\n")
            header = Header.model_validate_json(first)
            entries: list[Entry] = []
            for line in rest:
                entry = Entry.model_validate_json(line)
                if entry.picture != len(entries) - (entry.answer is None) or entry.picture >= len(
                    header.pictures
                ):
                    raise ValueError(f"picture {entry.picture} is out of turn")
                entries = entries[:-1] if entry.answer is None else [*entries, entry]
        except (OSError, ValueError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise CorruptArtifact(
                f"{path}: not a log of judgements ({problem}); restore it, or remove it"
            ) from error
        return cls(path, whole + b"\n", header, tuple(entries))

    def values(self, unsure: int) -> Values:
        """The value of each answer: candidate right less other right, -1, 0 or 1, with `unsure` for
        those (T,).
        """
        shown = zip(self.header.pictures, self.entries, strict=False)
        won = [
            (one.candidate == entry.answer) - (one.against == entry.answer) for one, entry in shown
        ]
        doubt = np.array([entry.answer == UNSURE for entry in self.entries], dtype=bool)
        return np.where(doubt, unsure, np.array(won, dtype=np.int64))

    def difference(self, confidence: float = CONFIDENCE) -> Difference:
        """The difference with its confidence sequence; D of N disagree, so their sum over N is the
        difference.

        When nearly all are judged the sequence counts every single one, mistakes of the judge
        included. So the exact test (McNemar's), which takes these pictures for a sample, must agree
        before anything is called clear.
        """
        images = self.header.images
        population = len(self.header.pictures)
        lowest = self.values(-1)
        highest = self.values(1)
        low, high = sum_bounds(lowest, highest, population, confidence)
        mean = float(self.values(0).mean()) if self.entries else 0.0
        clear = _is_clear(lowest, highest, population, confidence)
        p = max(p_value(lowest, population), sign_test(lowest))
        return Difference(population / images * mean, low / images, high / images, p, clear)

    @property
    def clicks_left(self) -> int | None:
        """About how many more answers make the difference clear if they go on as before; None while
        that is unknown.

        As many as are left if only judging all of them decides. It follows from whole tens of
        answers: a forecast that moved with every click would give away whose name was clicked.
        """
        judged = len(self.entries) // FORECAST_STEP * FORECAST_STEP
        if not judged:
            return None
        lowest, highest = (tuple(self.values(unsure)[:judged].tolist()) for unsure in (-1, 1))
        return max(
            _answers_until_clear(lowest, highest, len(self.header.pictures)) - len(self.entries), 0
        )

    @cached_property
    def counts(self) -> dict[str, Any]:
        """Pictures, answers of each kind, and who gave them when."""
        answers: list[object] = [entry.answer for entry in self.entries]
        values = self.values(0)
        return {
            "images": self.header.images,
            "unreadable": self.header.unreadable,
            "disagreements": len(self.header.pictures),
            "judged": len(answers),
            "won": int((values == 1).sum()),
            "lost": int((values == -1).sum()),
            NEITHER: answers.count(NEITHER),
            UNSURE: answers.count(UNSURE),
            "judges": ", ".join(sorted({entry.judge for entry in self.entries})),
            "first": min((entry.time for entry in self.entries), default=""),
            "last": max((entry.time for entry in self.entries), default=""),
        }


def _is_clear(
    lowest: Values, highest: Values, population: int, confidence: float = CONFIDENCE
) -> bool:
    """Whether the bounds exclude 0 and the exact test agrees, or nothing is left to judge
    (`Session.difference`).
    """
    level = (1 - confidence) / 2
    sides = (lowest, -highest)
    agree = any(
        p_value(values, population) <= level and sign_test(values) <= level for values in sides
    )
    return agree or len(lowest) == population


@lru_cache(maxsize=8)
def _answers_until_clear(lowest: tuple[int, ...], highest: tuple[int, ...], population: int) -> int:
    """How many answers the difference takes in all, if these are repeated until it is clear."""

    def is_clear(answers: int) -> bool:
        # np.resize repeats what it has.
        return _is_clear(np.resize(lowest, answers), np.resize(highest, answers), population)

    answers = range(len(lowest), population)
    return answers.start + bisect_left(answers, True, key=is_clear)


def create_log(path: Path, header: Header) -> None:
    """Write the first line of a log, whole or not at all."""
    try:
        write_atomically(path, header.model_dump_json() + "\n")
    except OSError as error:
        raise StoreWriteError(
            f"{path}: {error.strerror}; make the folder writable, or free space"
        ) from error


class JudgementLog:
    """A log that this process alone appends to; its methods may be called from several threads at
    once.
    """

    def __init__(self, path: Path, judge: str, descriptor: int) -> None:
        """Use `open_log`."""
        self.judge = judge
        self._file = descriptor
        self._lock = Lock()
        self.session = Session.read(path)

    def answer(self, picture: int, answer: Answer | None) -> bool:
        """Record the answer to the next picture, or with None that the last one is taken back.

        Returns:
            False where another picture is next: another tab was faster, or the same click came
                twice.

        Raises:
            StoreWriteError: If the disk refuses it; the log is as it was.
        """
        with self._lock:
            entries = self.session.entries
            if picture != len(entries) - (answer is None) or not 0 <= picture < len(
                self.session.header.pictures
            ):
                return False
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = Entry(picture=picture, answer=answer, judge=self.judge, time=now)
            line = entry.model_dump_json().encode() + b"\n"
            try:
                append(self._file, line)
            except OSError as error:
                raise StoreWriteError(
                    f"{self.session.path}: {error.strerror}; free space and click again"
                ) from error
            kept = entries[:-1] if answer is None else (*entries, entry)
            self.session = replace(self.session, data=self.session.data + line, entries=kept)
            return True


@contextmanager
def open_log(path: Path, judge: str) -> Iterator[JudgementLog]:
    """Hold a log open for appending.

    Raises:
        InputError: If another process has it open.
        CorruptArtifact: If it cannot be read.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        if not lock(descriptor, wait=False):
            raise InputError(
                f"{path}: another `react-pipeline judge` has it open; use its page, or stop it"
            )
        # What a kill left of a line was never acknowledged.
        data = path.read_bytes()
        os.ftruncate(descriptor, data.rfind(b"\n") + 1)
        yield JudgementLog(path, judge, descriptor)
    finally:
        os.close(descriptor)


def describe(session: Session) -> str:
    """What a session found, in one sentence."""
    difference = session.difference()
    header = session.header
    counts = session.counts
    return (
        f"{header.candidate.method} over {header.against.method}: {100 * difference.estimate:+.1f} "
        f"points, {100 * CONFIDENCE:.4g}% interval {100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}, judged on {counts['judged']:,} of "
        f"{counts['disagreements']:,} disagreements among {counts['images']:,} "
        "pictures" + (f", {counts[UNSURE]} unsure" if counts[UNSURE] else "")
    )
