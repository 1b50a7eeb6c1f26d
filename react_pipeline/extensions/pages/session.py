"""The log of a judgement: what a person said of the pictures on which two models disagree, and what
follows from it, by confidence sequences: bounds of a finite population's sum that hold at every
moment, however often one looks.

Does not belong here: which pictures disagree (`judge`), the artifact (`judgements`).

The first line holds both models and every picture on which they disagree, in random order; each
line after it is one answer to the next picture, or takes the last answer back.

An interval of fixed size, looked at again and again until it excludes 0, excludes it by luck sooner
or later. A confidence sequence covers the truth at all times at once with probability 1 - alpha, so
one may stop at any moment for any reason. This one is by betting (Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86, 2024, arXiv 2010.09686,
section 5; "Confidence sequences for sampling without replacement", NeurIPS 2020, arXiv 2006.04347):
if the population's sum is S, the draws before t leave S minus their sum to the N - t + 1 that are
left, so the mean of draw t is known, and no bet on it gains on average. By Ville's inequality a
wealth that begins at 1 ever reaches 1 / alpha with probability alpha at most. Sums that would have
made such a wealth are excluded. The bets are a mixture over shares of the wealth, so nothing is
tuned.

Shapes: N pictures, D of them disagreements, T answers or draws, B bets.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from react_pipeline.evaluation import sign_test
from react_pipeline.promotion import PairedTest
from react_pipeline.store import CorruptArtifact, StoreWriteError, write_atomically

NEITHER, UNSURE = "neither", "unsure"
Answer = int | Literal["neither", "unsure"]
"""The class id that was chosen, or none of both, or not known."""

CONFIDENCE = 0.95
"""Confidence of the bounds that pages and tables show."""


_BETS = 64
_SHARES = (np.arange(_BETS) + 0.5) / _BETS
"""Shares of the wealth that are staked, with equal weight (B,)."""
_MAX_LOG = 700.0
"""Logarithm of more than anybody wants to win, and less than a float can hold."""

Values = NDArray[np.int64]


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
class Session:
    """A log, read: its bytes, its header, and the answers that were not taken back, in the order of
    the pictures.
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
            session = cls(path, first + b"\n", Header.model_validate_json(first), ())
            for line in rest:
                entry = Entry.model_validate_json(line)
                if not session.is_next(entry.picture, entry.answer):
                    raise ValueError(f"picture {entry.picture} is out of turn")
                session = session.with_entry(entry, line + b"\n")
        except (OSError, ValueError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise CorruptArtifact(
                f"{path}: not a log of judgements ({problem}); restore it, or remove it"
            ) from error
        return session

    def is_next(self, picture: int, answer: Answer | None) -> bool:
        """Return whether this picture may be answered now, or its answer taken back."""
        place = len(self.entries) - (answer is None)
        return picture == place and 0 <= place < len(self.header.pictures)

    def with_entry(self, entry: Entry, line: bytes) -> Self:
        """Return the session after one more line."""
        kept = self.entries[:-1] if entry.answer is None else (*self.entries, entry)
        return replace(self, data=self.data + line, entries=kept)

    def values(self, unsure: int) -> Values:
        """Return the value of each answer: candidate right less other right, -1, 0 or 1, with
        `unsure` for those (T,).
        """
        shown = zip(self.header.pictures, self.entries, strict=False)
        values = [
            unsure
            if entry.answer == UNSURE
            else (one.candidate == entry.answer) - (one.against == entry.answer)
            for one, entry in shown
        ]
        return np.array(values, dtype=np.int64)

    def test(self, confidence: float = CONFIDENCE) -> PairedTest:
        """Return the difference in accuracy over all N pictures; D of them disagree, so their sum
        over N is the difference.

        Its bounds are the confidence sequence, `unsure` as lost in the lower one, won in the upper
        one and a tie in the gain. When nearly all are judged the sequence counts every single one,
        mistakes of the judge included. So the p-value is no smaller than that of the exact test
        (McNemar's), which takes these pictures for a sample.
        """
        images, population = self.header.images, len(self.header.pictures)
        lowest = self.values(-1)
        low, high = sum_bounds(lowest, self.values(1), population, confidence)
        return PairedTest(
            gain=population / images * float(self.values(0).mean()) if self.entries else 0.0,
            low=low / images,
            high=high / images,
            p_value=max(p_value(lowest, population), sign_test(lowest)),
            confidence=confidence,
            n=images,
            judged=len(self.entries),
        )

    @property
    def is_clear(self) -> bool:
        """Return whether the bounds exclude 0 and the exact test agrees, or nothing is left."""
        population = len(self.header.pictures)
        level = (1 - CONFIDENCE) / 2
        return len(self.entries) == population or any(
            max(p_value(values, population), sign_test(values)) <= level
            for values in (self.values(-1), -self.values(1))
        )

    @property
    def counts(self) -> dict[str, int]:
        """Count pictures, and answers of each kind."""
        answers: list[object] = [entry.answer for entry in self.entries]
        values = self.values(0).tolist()
        return {
            "images": self.header.images,
            "unreadable": self.header.unreadable,
            "disagreements": len(self.header.pictures),
            "judged": len(answers),
            "won": values.count(1),
            "lost": values.count(-1),
            NEITHER: answers.count(NEITHER),
            UNSURE: answers.count(UNSURE),
        }

    def __str__(self) -> str:
        """Return what it found, in one sentence."""
        return f"{self.header.candidate.method} over {self.header.against.method}: {self.test()}"


def create_log(path: Path, header: Header) -> None:
    """Write the first line of a log, whole or not at all."""
    try:
        write_atomically(path, header.model_dump_json() + "\n")
    except OSError as error:
        raise StoreWriteError(
            f"{path}: {error.strerror}; make the folder writable, or free space"
        ) from error


def log_wealth(values: Values, total: int, population: int) -> NDArray[np.float64]:
    """Return the logarithm of the wealth after each draw (T,) of a player who bets that the sum of
    the population is more than `total`.

    It falls as `total` grows; infinite where the draws alone exceed what `total` allows.

    Args:
        values: Draws without replacement, each -1, 0 or 1 (T,).
        total: The sum that is bet against, -N to N.
        population: N.
    """
    raised = values + 1  # 0, 1 or 2, so that what is left of the sum can be no less than 0
    left = total + population - np.concatenate([[0], np.cumsum(raised)])
    mean = left[:-1] / (population - np.arange(len(values)))
    odds = np.divide(raised, mean, out=np.ones(len(values)), where=mean > 0)
    wealth = np.cumsum(np.log1p(_SHARES[:, None] * (odds - 1)), axis=1)
    mixed = np.log(np.exp(np.minimum(wealth, _MAX_LOG)).mean(axis=0))
    return np.where(np.minimum.accumulate(left[1:]) < 0, np.inf, mixed)


def sum_bounds(
    lowest: Values, highest: Values, population: int, confidence: float
) -> tuple[int, int]:
    """Return two-sided bounds of the population's sum; they contain it at all T at once with this
    confidence.

    Args:
        lowest: Draws without replacement, -1, 0 or 1, each the least that it may be (T,).
        highest: The same draws, each the most that it may be (T,).
        population: N.
        confidence: Of both bounds together.
    """
    low = _lower_bound(lowest, population, confidence)
    high = -_lower_bound(-highest, population, confidence)
    # A sequence that has excluded every sum, which it may do with probability 1 - confidence, has
    # no interval.
    return min(low, high), max(low, high)


def p_value(lowest: Values, population: int) -> float:
    """Return the least level at which the sum was above 0 at any draw so far; valid at any moment,
    like the bounds.
    """
    return float(np.exp(-max(0.0, log_wealth(lowest, 0, population).max(initial=0.0))))


def _lower_bound(values: Values, population: int, confidence: float) -> int:
    known = int(values.sum())
    unknown = population - len(values)
    threshold = np.log(2 / (1 - confidence))
    sums = range(known - unknown, known + unknown)
    return sums.start + bisect_left(
        sums,
        True,
        key=lambda total: log_wealth(values, total, population).max(initial=0.0) < threshold,
    )
