"""Judgements: the logs of a domain that hold today, as an artifact that comparison and promotion
are made from.

Does not belong here: what a log says (`judgement_log`), writing one (`use.judge`).

No row of `pipeline.STAGES` has it: each reader of judgements publishes what the logs hold at that
moment, so an answer is in the next comparison and verdict, and a domain without judgements has no
empty artifact.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation.judgement_log import CONFIDENCE, Session, Side, describe
from react_pipeline.lineage import fresh
from react_pipeline.pages import escaped
from react_pipeline.project import Project
from react_pipeline.stage import ALL, method_key
from react_pipeline.store import Artifact, Inputs, ReactError

JUDGEMENTS = "judgements"
"""Stage of the artifact, by domain, and the folder next to `pipeline.yaml` with the logs:
`judgements/<domain>/`.
"""


@dataclass(frozen=True)
class Judgements:
    """The sessions of a domain that hold today, and the inputs of the artifact that keeps them."""

    inputs: Inputs
    sessions: tuple[Session, ...]

    def publish(self, project: Project) -> Artifact:
        """Publish them; the artifact that is there already if there are no new judgements.

        Files: `logs/*.jsonl` with every answer, `table.parquet` (one row a session), `table.md`.
        """

        def write(directory: Path) -> dict[str, Any]:
            (directory / "logs").mkdir()
            for session in self.sessions:
                (directory / "logs" / session.path.name).write_bytes(session.data)
            rows = [row_of(session) for session in self.sessions]
            pd.DataFrame(rows).to_parquet(directory / "table.parquet")
            sentences = "".join(f"- {escaped(describe(session))}\n" for session in self.sessions)
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

    def has(self, side: Side) -> bool:
        """Whether this model was one of the two of a session."""
        return any(side in (one.header.candidate, one.header.against) for one in self.sessions)

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
    """What two models share when they classify the same pictures: class names and templates."""
    domain = project.domain(slug)
    names = {} if domain.prompt_names == domain.class_names else {"names": domain.prompt_names}
    return {
        "classes": domain.class_names,
        **names,
        **domain.model_dump(mode="json", include={"templates"}),
    }


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


def _place(slug: str, method: str) -> tuple[str, str]:
    if method == "base":
        return "base_checkpoint", ALL
    return "customized_checkpoint", method_key(slug, method)
