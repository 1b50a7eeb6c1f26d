"""The chain of verdicts of a domain: how the next one follows from the last, and how it is kept in
the store.

Each verdict names the one before it. A decision is first claimed, whole, as the note that says what
follows a verdict; of several processes, on whatever hosts, one creates it. Everybody who finds a
claim publishes it, so no process that ends in between holds up the domain. `prune` removes old
claims.

A verdict's parents are the results that were considered, the champion's, and those of the previous
champion. So the store never prunes these models, even when their methods have newer ones. Earlier
verdicts are pruned; what they changed is in the last one's history.
"""

import json
from collections.abc import Callable
from contextlib import suppress

from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.promotion.case import Case, case_of, standing
from react_pipeline.promotion.judgement import Judgement, Measured
from react_pipeline.promotion.report import write_verdict
from react_pipeline.promotion.verdicts import BASE_METHOD, Verdict
from react_pipeline.settings import trained_methods
from react_pipeline.stage import DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import Artifact, Inputs, ReactError, digest_of


def conclude(project: Project, slug: str, decide: Callable[[Case], Judgement | None]) -> Artifact:
    """Publish the verdict that follows the last one, and all that others claimed meanwhile.

    Args:
        decide: Called again when another process decided meanwhile; None: the last verdict holds.
    """
    own = ""
    decided: Artifact | None = None
    while True:
        _, last = standing(project, slug)
        name = f"claims/{PROMOTION}--{slug}--{last.fingerprint if last else 'none'}"
        claim = project.store.read_note(name)
        if claim is None and decided is not None:
            return decided
        if claim is None:
            case = case_of(project, slug)
            judgement = decide(case)
            if judgement is None and case.last is not None:
                decided = case.last
            elif judgement is not None and case.last == last:
                own = _claim(case, judgement)
                project.store.create_note(name, own)
            continue
        published = _publish(project, claim)
        if claim == own:
            decided = published


def _claim(case: Case, judgement: Judgement) -> str:
    """Return everything that the artifact of a decision is made from, as JSON."""
    verdict = _next(case, judgement)
    parents = _parents(case, verdict)
    fields = verdict.model_dump(mode="json")
    content = {
        "before": case.last.fingerprint if case.last else "",
        "results": case.seen(case.result_of(verdict.champion)),
        "verdict": digest_of(fields),
    }
    inputs = resolve(case.project, PROMOTION, case.slug, parents=parents, content=content)
    places = {name: [one.stage, one.key, one.fingerprint] for name, one in parents.items()}
    rows = list(judgement.rows)
    return json.dumps({**inputs.identity, "parents": places, "verdict": fields, "rows": rows})


def _publish(project: Project, claim: str) -> Artifact:
    record = json.loads(claim)
    verdict = Verdict.model_validate(record.pop("verdict"))
    rows = record.pop("rows")
    record["parents"] = {
        name: project.store.open(*place) for name, place in record["parents"].items()
    }
    return project.store.build(
        Inputs(**record), lambda folder, _: write_verdict(folder, verdict, rows)
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
    measured = [case.result(method) for method in trained_methods(case.project.config.all_methods)]
    contenders = [one.contender for one in (base, *measured) if isinstance(one, Measured)]
    evaluation_set = next((one.evaluation_set for one in contenders), before.evaluation_set)
    tested = {one.checkpoint for one in contenders if one.method != BASE_METHOD}
    if evaluation_set == before.evaluation_set:
        tested |= {*before.tested}
    history = before.history
    if case.last is not None and (before.by == "person" or before.decision == "promoted"):
        history = (*history, before.as_history_entry(case.last))
    judged = {name: value for name, value in vars(judgement).items() if name != "rows"}
    return Verdict(
        **judged | {"champion": champion},
        domain=case.slug,
        champion_before=before.champion,
        min_gain=case.project.config.promotion.min_gain,
        evaluation_set=evaluation_set,
        tested=tuple(sorted(tested)),
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
