"""The chain of verdicts: of several hosts one decides what follows a verdict.

Each verdict names the one before it. It is published first, and then claims to be what follows that
one, in a note that one process creates, on whatever host; who comes second decides again. Everybody
who finds a claim makes its verdict current, so no process that ends in between holds up the domain.
`prune` removes old claims. The current artifact of the stage `promotion` names the champion,
whether MLflow is up or not.

A verdict's parents are the results that were considered, the champion's, and those of the previous
champion. So the store never prunes these models, even when their methods have newer ones. Earlier
verdicts are pruned; what they changed is in the last one's history.
"""

from collections.abc import Callable
from contextlib import suppress

from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.promotion.case import Case, build_case, standing
from react_pipeline.promotion.judgement import Judgement, Measured
from react_pipeline.promotion.verdicts import BASE_METHOD, Verdict, write_verdict
from react_pipeline.stage import DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    MissingArtifact,
    ReactError,
    hash_value,
)


def conclude(project: Project, slug: str, decide: Callable[[Case], Judgement | None]) -> Artifact:
    """Publish the verdict that follows the last one.

    Args:
        decide: Called again when another process decided meanwhile, or the verdict that it led to
            was removed; None: the last verdict holds.
    """
    while True:
        last = _make_last_current(project, slug)
        case = build_case(project, slug)
        judgement = decide(case)
        if judgement is None and case.last is not None:
            return case.last
        if judgement is not None and case.last == last:
            made = _publish(case, judgement)
            with suppress(MissingArtifact):  # pruned, so that its claim fails
                made.verify()
            claim = _claim(slug, last)
            if project.store.create_note(claim, made.fingerprint):
                is_last = _make_last_current(project, slug) == made
                if is_last or project.store.read_note(claim) == made.fingerprint:
                    return made


def _make_last_current(project: Project, slug: str) -> Artifact | None:
    """Return the last verdict of the chain, which is current then; None before the first."""
    while True:
        _, last = standing(project, slug)
        claim = _claim(slug, last)
        following = project.store.read_note(claim)
        if following is None:
            return last
        try:
            verdict = project.store.open(PROMOTION, slug, following)
            verdict.verify()
            project.store.set_current(verdict)
        except (MissingArtifact, CorruptArtifact):
            project.store.remove_note(claim)


def _claim(slug: str, last: Artifact | None) -> str:
    """Return the name of the note that says which verdict follows one."""
    return f"claims/{PROMOTION}--{slug}--{last.fingerprint if last else 'none'}"


def _publish(case: Case, judgement: Judgement) -> Artifact:
    verdict = _next(case, judgement)
    content = {
        "before": case.last.fingerprint if case.last else "",
        "results": case.seen(case.result_of(verdict.champion)),
        "verdict": hash_value(verdict.model_dump(mode="json")),
    }
    parents = _parents(case, verdict)
    return case.project.store.build(
        resolve(case.project, PROMOTION, case.slug, parents=parents, content=content),
        lambda folder, _: write_verdict(folder, verdict, judgement.rows),
        is_current=False,
    )


def _next(case: Case, judgement: Judgement) -> Verdict:
    """Return the verdict; a model that is rolled back is rejected until a person promotes it."""
    before = case.verdict
    champion = judgement.champion or before.champion
    base = case.result(BASE_METHOD)
    if champion.method == BASE_METHOD and isinstance(base, Measured):
        champion = base.contender
    earlier = before.previous_champions
    rejected = set(before.rejected)
    if judgement.decision == "rolled back":
        earlier = () if champion.method == BASE_METHOD else earlier[:-1]
        rejected.add(before.champion.checkpoint)
    elif not champion.is_same(before.champion):
        earlier = (*earlier, before.champion)
        rejected.discard(champion.checkpoint)
    history = before.history
    if case.last is not None and (before.by == "person" or before.decision == "promoted"):
        history = (*history, before.as_history_entry(case.last))
    judged = {name: value for name, value in vars(judgement).items() if name != "rows"}
    return Verdict(
        **judged | {"champion": champion},
        domain=case.slug,
        champion_before=before.champion,
        previous_champions=earlier,
        rejected=tuple(sorted(rejected)),
        history=history,
    )


def _parents(case: Case, verdict: Verdict) -> dict[str, Artifact]:
    """Return what was considered, and what must outlive pruning of the champion and the one before
    it.
    """
    parents = dict(case.results)
    parents |= {name: one.publish(case.project) for name, one in case.evidence.items()}
    previous = next(reversed(verdict.previous_champions), None)
    for name, model in (("champion", verdict.champion), ("previous", previous)):
        if model is None or model.method == BASE_METHOD:
            continue
        if name == "champion" and (result := case.result_of(model)) is not None:
            parents[name] = result.artifact
            continue
        key = method_key(case.slug, model.method) if model.stage == DOMAIN_RESULTS else case.slug
        with suppress(ReactError):  # its files are gone
            parents[name] = case.project.store.open(model.stage, key, model.result)
    return parents
