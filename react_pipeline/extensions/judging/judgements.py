"""Judgements: the logs of a domain that hold today, as an artifact that comparison and promotion
are made from.

Does not belong here: what a log says (`log`), writing one (`page`), the rule of promotion (`rule`).

No row of `pipeline.STAGES` has it: each reader of judgements publishes what the logs hold at that
moment, so an answer is in the next comparison and verdict, and a domain without judgements has no
empty artifact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.evaluation import Evidence, Finding, interval_in_words, points
from react_pipeline.extensions.judging.log import CONFIDENCE, Session, Side, describe
from react_pipeline.lineage import fresh
from react_pipeline.pages import escaped
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import ALL, BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact, Inputs, ReactError, Scratch

if TYPE_CHECKING:
    from react_pipeline.promotion import Contender, Judgement

JUDGEMENTS = "judgements"
"""Stage of the artifact, by domain, and the folder next to `pipeline.yaml` with the logs:
`judgements/<domain>/`.
"""


STATUS = "judged without labels"
"""The status of a method without accuracy whose checkpoint a person compared with another."""


@dataclass(frozen=True)
class Judgements(Evidence):
    """The sessions of a domain that hold today, and the inputs of the artifact that keeps them."""

    inputs: Inputs
    sessions: tuple[Session, ...]
    columns = ("judged_delta", "judged_gain")
    decides = True
    title = "Judged, not measured"
    explanation = (
        "A person said which class is right on pictures without labels where two models disagree. "
        "The intervals hold at every moment of the judging (confidence sequences), and the figures "
        "are about these pictures alone; a judge's mistakes draw them towards 0."
    )

    def publish(self, project: Project) -> Artifact:
        """Publish them; the artifact that is there already if there are no new judgements.

        Files: `logs/*.jsonl` with every answer, `table.parquet` (one row a session), `table.md`.
        """

        def write(directory: Path, _: Scratch) -> dict[str, Any]:
            (directory / "logs").mkdir()
            for session in self.sessions:
                (directory / "logs" / session.path.name).write_bytes(session.data)
            rows = [row_of(session) for session in self.sessions]
            pd.DataFrame(rows).to_parquet(directory / "table.parquet")
            sentences = "".join(f"- {escaped(sentence)}\n" for sentence in self.sentences())
            (directory / "table.md").write_text(sentences, encoding="utf-8")
            counts: dict[str, Any] = {"sessions": len(self.sessions)}
            for session, row in zip(self.sessions, rows, strict=True):
                name = f"{row['candidate']}-over-{row['against']}-{session.path.stem[-8:]}"
                counts[name] = {
                    key: value
                    for key, value in row.items()
                    if isinstance(value, bool | int | float)
                }
            return counts

        return project.store.build(self.inputs, write)

    def rows(self, checkpoints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """What a person found of these checkpoints compared with the base and their controls."""
        sides = {
            method: Side(method=method, checkpoint=checkpoint)
            for method, checkpoint in checkpoints.items()
        }
        rows: dict[str, dict[str, Any]] = {}
        for method, side in sides.items():
            row: dict[str, Any] = {"status": STATUS} if self._of(side.checkpoint) else {}
            for other, column in (
                ("base", "judged_delta"),
                (method + CONTROL_SUFFIX, "judged_gain"),
            ):
                session = self.latest(side, sides[other]) if other in sides else None
                if session is not None:
                    difference = session.difference()
                    row |= {
                        column: difference.estimate,
                        f"{column}_low": difference.low,
                        f"{column}_high": difference.high,
                        "judged": row.get("judged", 0) + len(session.entries),
                    }
            rows[method] = row
        return rows

    def sentences(self, checkpoint: str = "") -> list[str]:
        """A sentence for each session; of one checkpoint, or all."""
        return [describe(session) for session in self._of(checkpoint)]

    def finding(self, table: pd.DataFrame) -> Finding | None:
        """The method that is judged best against the base."""
        judged = table[table["judged_delta"].notna()].sort_values(
            "judged_delta", ascending=False, kind="stable"
        )
        for best in judged.itertuples():
            gain = (
                f"{points(best.judged_delta)} points "
                f"({interval_in_words(best.judged_delta_low, best.judged_delta_high)})"
            )
            headline = f"Without labels, {best.method} is judged {gain} against the base."
            return Finding(best.method, headline, _details(best))
        return None

    def models(self, project: Project) -> Mapping[str, str]:
        """Return today's model of the base, of each candidate and of its control."""
        from react_pipeline.extensions.judging.rule import present_models

        present = present_models(project, self.inputs.key)
        return {f"today's {method}": side.checkpoint for method, side in present.items()}

    def judge(
        self,
        project: Project,
        champion: Contender,
        champion_name: str,
        turned_down: Collection[str],
    ) -> Judgement:
        """The rule without labels: `rule.judge_without_labels`."""
        from react_pipeline.extensions.judging.rule import judge_without_labels

        return judge_without_labels(project, self, champion, champion_name, turned_down)

    def _of(self, checkpoint: str) -> list[Session]:
        return [
            session
            for session in self.sessions
            if not checkpoint
            or checkpoint
            in (session.header.candidate.checkpoint, session.header.against.checkpoint)
        ]

    def latest(self, candidate: Side, against: Side) -> Session | None:
        """The session of two models that was begun last; None if they were never judged."""
        matches = [
            one
            for one in self.sessions
            if (one.header.candidate, one.header.against) == (candidate, against)
        ]
        return max(matches, key=lambda session: session.header.created, default=None)


def judgements_of(project: Project, slug: str) -> Judgements | None:
    """What the logs of a domain hold today; None if there are no judgements. Publishes nothing.

    Logs under other class names or templates, and of models that were pruned, stay where they are
    and count for nothing.

    Raises:
        CorruptArtifact: If a log cannot be read.
    """
    paths = sorted((project.path.parent / JUDGEMENTS / slug).glob("*.jsonl"))
    if not paths:
        return None
    measure = measure_of(project, slug)
    parents: dict[str, Artifact] = {}
    sessions: list[Session] = []
    for session in map(Session.read, paths):
        sides = (session.header.candidate, session.header.against)
        try:
            models = {side.checkpoint: model_of(project, slug, side) for side in sides}
        except ReactError:
            continue
        if session.header.measure == measure and session.entries:
            parents |= models
            sessions.append(session)
    if not sessions:
        return None
    content = {session.path.name: hashlib.sha256(session.data).hexdigest() for session in sessions}
    return Judgements(Inputs(JUDGEMENTS, slug, measure, parents, "1", content), tuple(sessions))


def measure_of(project: Project, slug: str) -> dict[str, Any]:
    """What two models share when they classify the same pictures: class names and prompts."""
    domain = project.domain(slug)
    names = {} if domain.prompt_names == domain.class_names else {"names": domain.prompt_names}
    return {"classes": domain.class_names, **names, **domain.wording}


def model_of(project: Project, slug: str, side: Side) -> Artifact:
    """The artifact of a judged model.

    Raises:
        MissingArtifact: If it was pruned.
    """
    stage, key = _place(slug, side.method)
    return project.store.open(stage, key, side.checkpoint)


def present_model(project: Project, slug: str, method: str) -> Side:
    """Today's model of a method, or the base.

    Raises:
        MissingArtifact: If it was never built.
        StaleArtifact: If it was built from other inputs than today's.
    """
    return Side(method=method, checkpoint=fresh(project, *_place(slug, method)).fingerprint)


def row_of(session: Session) -> dict[str, Any]:
    """A session as a row of tables; differences are fractions."""
    header = session.header
    difference = session.difference()
    return {
        "candidate": header.candidate.method,
        "candidate_checkpoint": header.candidate.checkpoint,
        "against": header.against.method,
        "against_checkpoint": header.against.checkpoint,
        "source": header.source,
        "created": header.created,
        "difference": difference.estimate,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
        "confidence": CONFIDENCE,
        "clear": difference.clear,
        **session.counts,
    }


def _details(row: Any) -> tuple[str, str]:
    low = row.judged_delta_low
    high = row.judged_delta_high
    verdict = (
        "It is better"
        if low > 0
        else "It is worse"
        if high < 0
        else "It is not clear which of the two is better"
    )
    control = "Its control was not judged, so what retrieval adds is not known: judge it too, with "
    control += f"--against {row.method}{CONTROL_SUFFIX}."
    if not pd.isna(row.judged_gain):
        interval = interval_in_words(row.judged_gain_low, row.judged_gain_high)
        gain = f"{points(row.judged_gain)} points ({interval})"
        control = f"Over its control, the same training on random pairs, it is judged {gain}."
    return f"{verdict} on these pictures; of others nothing is known.", control


def _place(slug: str, method: str) -> tuple[str, str]:
    if method == "base":
        return BASE_CHECKPOINT, ALL
    return CUSTOMIZED_CHECKPOINT, method_key(slug, method)
