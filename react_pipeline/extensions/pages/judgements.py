"""Judgements: the logs of a domain that hold today, as an artifact that comparison and promotion
are made from.

Belongs here too: the rule without labels, which is the choice of `promotion.judgement` by
confidence sequences instead of measured results. Does not belong here: what a log says (`session`),
writing one (`judge`).

No row of `pipeline.STAGES` has it: each reader of judgements publishes what the logs hold at that
moment, so an answer is in the next comparison and verdict, and a domain without judgements has no
empty artifact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from react_pipeline.evaluation import Evidence
from react_pipeline.extensions.pages.session import Session, Side
from react_pipeline.lineage import fresh
from react_pipeline.pages import escaped
from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, Contender, Judgement, Tested, choose
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    domain_and_method,
    method_key,
)
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    Inputs,
    ReactError,
    Scratch,
)

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

        Files: `logs/*.jsonl` with every answer, and `table.md`, a sentence for each.
        """

        def write(directory: Path, _: Scratch) -> dict[str, Any]:
            (directory / "logs").mkdir()
            for session in self.sessions:
                (directory / "logs" / session.path.name).write_bytes(session.data)
            lines = "".join(f"- {escaped(sentence)}\n" for sentence in self.sentences())
            (directory / "table.md").write_text(lines, encoding="utf-8")
            figures = {}
            for one in self.sessions:
                test = one.test()
                bounds = test.model_dump(include={"low", "high", "p_value", "confidence"})
                name = f"{one.header.candidate.method}-over-{one.header.against.method}"
                figures[f"{name}-{one.path.stem[-8:]}"] = {
                    "difference": test.gain,
                    **bounds,
                    "clear": one.is_clear,
                    **one.counts,
                }
            return {"sessions": len(figures)} | figures

        return project.store.build(self.inputs, write)

    def rows(self, checkpoints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return what a person found of these checkpoints compared with the base and their
        controls.
        """
        rows: dict[str, dict[str, Any]] = {}
        for method, checkpoint in checkpoints.items():
            row = rows[method] = {"status": STATUS} if self.sentences(checkpoint) else {}
            side = Side(method=method, checkpoint=checkpoint)
            for other, column in (
                ("base", "judged_delta"),
                (method + CONTROL_SUFFIX, "judged_gain"),
            ):
                against = Side(method=other, checkpoint=checkpoints.get(other, ""))
                if session := self.latest(side, against):
                    test = session.test()
                    row[column] = test.gain
                    row[f"{column}_low"], row[f"{column}_high"] = test.low, test.high
                    row["judged"] = row.get("judged", 0) + test.judged
        return rows

    def sentences(self, checkpoint: str = "") -> list[str]:
        """Return a sentence for each session; of one checkpoint, or all."""
        return [
            str(one)
            for one in self.sessions
            if checkpoint in ("", one.header.candidate.checkpoint, one.header.against.checkpoint)
        ]

    def models(self, project: Project) -> Mapping[str, str]:
        """Return today's model of the base, of each candidate and of its control."""
        present = present_models(project, self.inputs.key)
        return {f"today's {method}": side.checkpoint for method, side in present.items()}

    def judge(
        self,
        project: Project,
        champion: Contender,
        champion_name: str,
        turned_down: Collection[str],
    ) -> Judgement:
        """Test every candidate that a person judged against the champion, and name the best.

        All K sessions against the champion are tested, each at a confidence of
        1 - (1 - confidence) / K; those of one candidate are as many tries, of which the one that
        was begun last counts. A sequence is valid whenever the judge stopped, so nothing else is
        corrected. Of those that pass, the highest estimate is promoted.
        """
        settings = project.config.promotion
        present = present_models(project, self.inputs.key)
        holder: Side | None = Side(method=champion.method, checkpoint=champion.checkpoint)
        if champion.method == BASE_METHOD:
            holder = present.get(BASE_METHOD)
        if holder is None:
            reason = "no base to compare with; materialize `base_checkpoint`"
            return Judgement("incomparable", reason)
        models = [present[name] for name in project.config.candidates if name in present]
        rivals = [one for one in models if one != holder and one.checkpoint not in turned_down]
        against = [one.header.candidate for one in self.sessions if one.header.against == holder]
        tries = sum(one in rivals for one in against)
        if not tries:
            outdated = sorted({one.method for one in against if one not in models})
            return self._unjudged(champion_name, outdated)
        confidence = 1 - (1 - settings.confidence) / tries
        judged = [one for side in rivals if (one := self.latest(side, holder))]
        tested = []
        for session in sorted(judged, key=lambda one: -one.test().gain):
            side, test = session.header.candidate, session.test(confidence)
            contender = Contender(
                **side.model_dump(),
                result=self.inputs.fingerprint,
                stage=JUDGEMENTS,
                n=test.n,
            )
            control = present.get(side.method + CONTROL_SUFFIX) if settings.over_control else None
            over_control = self.latest(side, control) if control else None
            control_test = over_control.test(confidence) if over_control else None
            figures = f"judged without labels: {contender.identity} over {champion_name} {test}"
            tested.append(Tested(contender, figures, test, control_test))
        return replace(choose(tested, champion_name, settings), candidates=tries)

    def _unjudged(self, champion_name: str, outdated: Collection[str]) -> Judgement:
        reason = "no present candidate was judged against it"
        if outdated:
            names = ", ".join(outdated)
            reason += f" (the judged model of {names} is out of date: build it, and judge it again)"
        way = f"react-pipeline judge {self.inputs.key} SOURCE"
        return Judgement("nothing", f"{champion_name} stays: {reason}: {way}")

    def latest(self, candidate: Side, against: Side) -> Session | None:
        """Return the session of two models that was begun last; None if they were never judged."""
        both = (candidate, against)
        matches = [
            one for one in self.sessions if (one.header.candidate, one.header.against) == both
        ]
        return max(matches, key=lambda session: session.header.created, default=None)


def read_judgements(project: Project, slug: str) -> Judgements | None:
    """Return what the logs of a domain hold today; None if there are no judgements. Publishes
    nothing.

    Logs under other class names or templates, and of models that were pruned, stay where they are
    and count for nothing.

    Raises:
        CorruptArtifact: If a log cannot be read.
    """
    parents: dict[str, Artifact] = {}
    sessions: list[Session] = []
    for path in sorted((project.path.parent / JUDGEMENTS / slug).glob("*.jsonl")):
        session = Session.read(path)
        sides = (session.header.candidate, session.header.against)
        try:
            models = {
                side.checkpoint: project.store.open(*_place(slug, side.method), side.checkpoint)
                for side in sides
            }
        except ReactError:
            continue
        if session.header.measure == shared_prompts(project, slug) and session.entries:
            parents |= models
            sessions.append(session)
    if not sessions:
        return None
    content = {session.path.name: hashlib.sha256(session.data).hexdigest() for session in sessions}
    inputs = Inputs(JUDGEMENTS, slug, shared_prompts(project, slug), parents, "1", content)
    return Judgements(inputs, tuple(sessions))


def shared_prompts(project: Project, slug: str) -> dict[str, Any]:
    """Return what two models share when they classify the same pictures: class names and
    prompts.
    """
    domain = project.domain(slug)
    names = {} if domain.prompt_names == domain.class_names else {"names": domain.prompt_names}
    return {"classes": domain.class_names, **names, **domain.wording}


def side_of(model: Artifact) -> Side:
    """Return which model an artifact holds."""
    method = domain_and_method(model.key)[1] or BASE_METHOD
    return Side(method=method, checkpoint=model.fingerprint)


def present_models(project: Project, slug: str) -> dict[str, Side]:
    """Return today's model of the base, of each candidate and of its control, where there is
    one.
    """
    candidates = project.config.candidates
    controls = [name + CONTROL_SUFFIX for name in candidates]
    present: dict[str, Side] = {}
    for method in (BASE_METHOD, *candidates, *controls):
        with suppress(InputError, CorruptArtifact):
            present[method] = side_of(fresh(project, *_place(slug, method)))
    return present


def _place(slug: str, method: str) -> tuple[str, str]:
    if method == "base":
        return BASE_CHECKPOINT, ALL
    return CUSTOMIZED_CHECKPOINT, method_key(slug, method)
