"""Verdicts: the on-disk form of a decision on the champion of a domain, with its contenders, tests
and history.

Does not belong here: judging (`judgement`), deciding (`decision`), MLflow's registry (`tracking`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from react_pipeline.evaluation import percent
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.store import Artifact, CorruptArtifact

VERDICT_FILE = "verdict.json"
BASE_METHOD = "base"

Decision = Literal["promoted", "kept", "challenger", "incomparable", "nothing", "rolled back"]
By = Literal["rule", "person"]
MOVES = ("promoted", "rolled back")
"""Decisions after which another model is champion."""


class _Stored(BaseModel):
    # Fields of a larger record, or that a later version adds, are passed over: the champion can
    # always be read.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Contender(_Stored):
    """A model with its result; the base has no checkpoint of its own.

    `checkpoint` and `result` are fingerprints; `stage` is that of the result.
    """

    method: str
    checkpoint: str = ""
    result: str = ""
    stage: str = "domain_results"
    top1: float | None = None
    n: int = 0

    def is_same(self, other: Self) -> bool:
        """Return whether both are one model; the base is always the base of today."""
        return self.method == other.method and (
            self.method == BASE_METHOD or self.checkpoint == other.checkpoint
        )

    @property
    def identity(self) -> str:
        """The method with the beginning of the checkpoint's fingerprint; for the base its name."""
        return (
            self.method if self.method == BASE_METHOD else f"{self.method} ({self.checkpoint[:8]})"
        )


class PairedTest(_Stored):
    """How much more often one method is right than another on the same N images.

    Attributes:
        gain: Difference in top-1, a fraction.
        low: Lower bound of its bootstrap interval at `confidence`.
        p_value: Chance of as many images won among those where just one is right, if a coin decided
            each (exact, one side).
        confidence: Of the interval, after it was split among the candidates.
        judged: Images that were judged one by one, where nothing was measured: `low`, `high` and
            `p_value` are then those of evidence that is valid at any number of them.
    """

    gain: float
    low: float
    high: float
    p_value: float
    confidence: float
    n: int
    judged: int = 0

    def __str__(self) -> str:
        bounds = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.gain:+.1f} points, {100 * self.confidence:.4g}% interval {bounds}" + (
            f" ({self.judged} judged, of {self.n:,} pictures)" if self.judged else ""
        )

    def exceeds(self, min_gain: float) -> bool:
        """Return whether the interval is above `min_gain`, and the exact test agrees that there is
        a gain at all.
        """
        return self.low > min_gain and self.p_value <= (1 - self.confidence) / 2


class Decided(_Stored):
    """What was decided, by whom and why.

    Attributes:
        decision: `promoted`: the challenger became champion; `challenger`: it is ahead and not
            beyond the noise, or not allowed; `kept`: no model is ahead of the champion;
            `incomparable`; `nothing`: there was no candidate; `rolled back`: a person restored an
            earlier champion.
        by: The rule of the configuration, or a person's command.
        person: The name of who gave the command.
        challenger: The best candidate that is not the champion (after `promoted`: who became it).
        test: Challenger against the champion before.
    """

    decision: Decision
    by: By = "rule"
    person: str = ""
    reason: str
    champion: Contender
    challenger: Contender | None = None
    test: PairedTest | None = None


class HistoryEntry(Decided):
    """A decision in the history of a domain: its verdict's fingerprint, and when it was made."""

    promotion: str
    decided: str


class Verdict(Decided):
    """The champion of a domain, since when and why.

    Attributes:
        candidates: How many candidates were tested at once (K).
        previous_champions: Earlier champions, latest last, which a rollback restores.
        rejected: Checkpoints that a person rejected; the rule never promotes them again.
        history: The decisions before this one that changed something, oldest first.
    """

    domain: str
    champion_before: Contender
    candidates: int = 0
    previous_champions: tuple[Contender, ...] = ()
    rejected: tuple[str, ...] = ()
    history: tuple[HistoryEntry, ...] = ()

    def as_history_entry(self, artifact: Artifact) -> HistoryEntry:
        """Return this verdict, published as `artifact`, as an entry of the history."""
        decided = str(artifact.manifest["created"])
        return HistoryEntry(promotion=artifact.fingerprint, decided=decided, **self.model_dump())

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Read the verdict of a published `promotion`.

        Raises:
            CorruptArtifact: If it is of another form.
        """
        try:
            return cls.model_validate_json(artifact.file(VERDICT_FILE).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise CorruptArtifact(
                f"{artifact.address}/{VERDICT_FILE}: not a verdict of this version"
            ) from error


TABLE = {
    "method": "method",
    "status": "",
    "top1": "top-1 %",
    "n": "images",
    "gain": "gain",
    "interval": "interval",
    "control": "over its control",
    "p_value": "p (exact)",
    "why": "why",
}
"""Columns of the table of candidates, with their headings."""


def write_verdict(
    directory: Path, verdict: Verdict, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write `verdict.json` and `table.md`, and return the counts for the manifest.

    The table has the sentence of the verdict, and a row for each candidate: percent, points, empty
    where nothing was measured.
    """
    (directory / VERDICT_FILE).write_text(
        verdict.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    top1 = percent(verdict.champion.top1)
    champion = verdict.champion.method + (f", top-1 {top1}%" if top1 else "")
    table = markdown_table([*TABLE.values()], [[row.get(name) for name in TABLE] for row in rows])
    text = f"{escaped(verdict.reason)}\n\nChampion: {champion}.\n\n{table}"
    (directory / "table.md").write_text(text, encoding="utf-8")
    return {
        **verdict.model_dump(include={"decision", "by", "reason", "candidates"}),
        "champion": verdict.champion.method,
        "champion_before": verdict.champion_before.method,
        "challenger": verdict.challenger.method if verdict.challenger else "",
        **verdict.champion.model_dump(include={"top1"}, exclude_none=True),
        **(verdict.test.model_dump() if verdict.test else {}),
    }
