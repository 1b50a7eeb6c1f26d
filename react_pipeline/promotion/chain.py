"""The chain of verdicts of a domain: how the next one follows from the last, and how it is kept in
the store.

Each verdict names the one before it. A decision is first claimed, whole, as the note that says what
follows a verdict; of several processes, on whatever hosts, one creates it. Everybody who finds a
claim without its artifact publishes it, so no process that ends in between holds up the domain.

A verdict's parents are the results that were considered, the champion's, and those of the previous
champion. So the store never prunes these models, even when their methods have newer ones. Earlier
verdicts are pruned; what they changed is in the last one's history.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.promotion.case import Case, case_of
from react_pipeline.promotion.judgement import Judgement
from react_pipeline.promotion.report import write_verdict
from react_pipeline.promotion.verdicts import BASE_METHOD, By, Contender, Verdict
from react_pipeline.settings import trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    Inputs,
    MissingArtifact,
    ReactError,
    digest_of,
)

ATTEMPTS = 20


@dataclass(frozen=True)
class Decision:
    """A judgement with the champion that follows from it, and whose decision it is."""

    champion: Contender
    judgement: Judgement
    by: By = "rule"
    person: str = ""


def conclude(project: Project, slug: str, decide: Callable[[Case], Decision | None]) -> Artifact:
    """Publish the verdict that follows the last one.

    Args:
        decide: Called again when another process decided meanwhile; None: the last verdict holds.
    """
    for _ in range(ATTEMPTS):
        case = case_of(project, slug)
        name = _follow(project, slug, case.last)
        if isinstance(name, Artifact):
            while isinstance(name, Artifact):  # to the last verdict that was claimed
                name = _follow(project, slug, name)
            continue
        decision = decide(case)
        if decision is None and case.last is not None:
            return case.last
        if decision is not None:
            claim = _claim(case, decision)
            # A server may refuse to create what this very request has created before.
            if project.store.create_note(name, claim) or project.store.read_note(name) == claim:
                artifact = _publish(project, slug, claim)
                after: Artifact | str = artifact
                while isinstance(after, Artifact):  # another process may be further by now
                    after = _follow(project, slug, after)
                return artifact
    raise ReactError(f"{slug}: other processes decide on its champion all the time; try again")


def _follow(project: Project, slug: str, last: Artifact | None) -> Artifact | str:
    """Return the verdict after `last`, published now if it was only claimed; if there is none, the
    name of the note that claims it.
    """
    before = last.fingerprint if last else "none"
    for number in count():
        name = f"{PROMOTION}--{slug}--{before}--{number}"
        if (claim := project.store.read_note(name)) is None:
            return name
        with suppress(MissingArtifact, CorruptArtifact):  # what it considered was pruned
            return _publish(project, slug, claim)
    raise AssertionError


def _claim(case: Case, decision: Decision) -> str:
    """Return everything that the artifact of a decision is made from, as JSON."""
    verdict = _next(case, decision)
    parents = _parents(case, verdict)
    fields = verdict.model_dump(mode="json", by_alias=True)
    content = {
        "before": case.last.fingerprint if case.last else "",
        "results": case.seen(case.result_of(verdict.champion)),
        "verdict": digest_of(fields),
    }
    inputs = resolve(case.project, PROMOTION, case.slug, parents=parents, content=content)
    return json.dumps(
        {
            "config": inputs.config,
            "code_version": inputs.code_version,
            "content": content,
            "parents": {
                name: [one.stage, one.key, one.fingerprint] for name, one in parents.items()
            },
            "verdict": fields,
            "rows": list(decision.judgement.rows),
        }
    )


def _publish(project: Project, slug: str, claim: str) -> Artifact:
    record: dict[str, Any] = json.loads(claim)
    verdict = Verdict.model_validate(record.pop("verdict"))
    rows = record.pop("rows")
    parents = {name: project.store.open(*place) for name, place in record.pop("parents").items()}
    inputs = Inputs(PROMOTION, slug, parents=parents, **record)
    return project.store.build(inputs, lambda folder, _: write_verdict(folder, verdict, rows))


def _next(case: Case, decision: Decision) -> Verdict:
    """Return the verdict; a model that is rolled back is rejected until a person promotes it."""
    before = case.verdict
    judgement = decision.judgement
    champion = decision.champion
    if champion.method == BASE_METHOD and BASE_METHOD in case.measured:
        champion = case.measured[BASE_METHOD].contender
    earlier = before.previous_champions
    rejected = set(before.rejected)
    if judgement.decision == "rolled back":
        earlier = () if champion.method == BASE_METHOD else earlier[:-1]
        rejected.add(before.champion.checkpoint)
    elif not champion.is_same(before.champion):
        earlier = (*earlier, before.champion)
        rejected.discard(champion.checkpoint)
    trained = trained_methods(case.project.config.all_methods)
    tested = {
        entry.contender.checkpoint for name, entry in case.measured.items() if name in trained
    }
    sets = [entry.result.evaluation_set_fingerprint for entry in case.measured.values()]
    evaluation_set = next(iter(sets), before.evaluation_set)
    if evaluation_set == before.evaluation_set:
        tested |= {*before.tested}
    history = before.history
    if case.last is not None and (before.by == "person" or before.decision == "promoted"):
        history = (*history, before.as_history_entry(case.last))
    judged = {name: value for name, value in vars(judgement).items() if name != "rows"}
    return Verdict(
        **judged,
        domain=case.slug,
        by=decision.by,
        person=decision.person,
        champion_before=before.champion,
        champion=champion,
        min_gain=case.project.config.promotion.min_gain,
        evaluation_set=evaluation_set,
        tested=tuple(sorted(tested)),
        reigns=earlier,
        rejected=tuple(sorted(rejected)),
        history=history,
    )


def _parents(case: Case, verdict: Verdict) -> dict[str, Artifact]:
    """Return what was considered, and what must outlive pruning of the champion and the one before
    it.
    """
    parents = {method: entry.artifact for method, entry in case.measured.items()}
    parents |= {one.inputs.stage: one.publish(case.project) for one in case.weighed}
    if (result := case.result_of(verdict.champion)) is not None:
        parents["champion"] = result.artifact
    previous = next(reversed(verdict.previous_champions), None)
    for name, model in (("champion", verdict.champion), ("previous", previous)):
        if name not in parents and model is not None and model.method != BASE_METHOD:
            parents |= _files_of(case, name, model)
    return parents


def _files_of(case: Case, name: str, model: Contender) -> dict[str, Artifact]:
    """Return what must outlive pruning of a model: its result, which holds on to the checkpoint, or
    else the checkpoint.
    """
    store = case.project.store
    key = method_key(case.slug, model.method)
    for stage, of, fingerprint in (
        (model.stage, key if model.stage == DOMAIN_RESULTS else case.slug, model.result),
        (CUSTOMIZED_CHECKPOINT, key, model.checkpoint),
    ):
        with suppress(ReactError):
            return {name: store.open(stage, of, fingerprint)}
    return {}
