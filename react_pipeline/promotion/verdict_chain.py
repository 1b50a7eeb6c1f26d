"""The chain of verdicts of a domain: how the next one follows from the last, and how it is kept in
the store.

Each verdict names the one before it in its content, so that equal decisions at different times are
different artifacts. Its parents are the results that were considered, the champion's, and those of
the previous champion. So the store never prunes these models, even when their methods have newer
ones. Earlier verdicts are pruned; what they changed is in the last one's history.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from react_pipeline.lineage import resolve
from react_pipeline.promotion.case import Case
from react_pipeline.promotion.judgement import Judgement
from react_pipeline.promotion.report import write_verdict
from react_pipeline.promotion.verdicts import BASE_METHOD, By, Contender, HistoryEntry, Verdict
from react_pipeline.settings import trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import Artifact, ReactError, Scratch


def conclude(
    case: Case,
    champion: Contender,
    judgement: Judgement,
    *,
    by: By = "rule",
    person: str = "",
    rows: Sequence[Mapping[str, Any]] = (),
    note: str = "",
    registry: str | None = None,
) -> Artifact:
    """Publish the next verdict, with a new `champion`. Call it with the domain's lock held, so that
    no other verdict follows the same one.

    Args:
        rows: Of the table of candidates.
        registry: The version that a person's edit of the registry names, if it was considered.
    """
    verdict = _next(case, champion, judgement, by, person)
    result = case.result_of(verdict.champion)
    seen = case.seen_with(result) | ({} if registry is None else {"registry": registry})
    content = {
        "before": case.last.fingerprint if case.last else "",
        "results": seen,
        "decision": verdict.decision,
        "by": verdict.by,
        "champion": verdict.champion.checkpoint,
        "note": note,
    }
    parents = _parents(case, verdict)
    inputs = resolve(case.project, PROMOTION, case.slug, parents=parents, content=content)
    counts = {
        "decision": verdict.decision,
        "by": verdict.by,
        "reason": verdict.reason,
        "champion": verdict.champion.method,
        "champion_before": verdict.champion_before.method,
        "challenger": verdict.challenger.method if verdict.challenger else "",
        "candidates": verdict.candidates,
        "tested_on_these_images": len(verdict.tested),
        **({"top1": verdict.champion.top1} if verdict.champion.top1 is not None else {}),
        **(verdict.test.model_dump() if verdict.test else {}),
    }

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        write_verdict(directory, verdict, rows)
        return counts

    return case.project.store.build(inputs, write)


def _next(case: Case, champion: Contender, judgement: Judgement, by: By, person: str) -> Verdict:
    """A model that is rolled back is rejected from then on, until a person promotes it."""
    before = case.verdict
    if champion.method == BASE_METHOD and BASE_METHOD in case.results:
        champion = case.results[BASE_METHOD].contender
    earlier = before.previous_champions
    rejected = set(before.rejected)
    if judgement.decision == "rolled back":
        earlier = () if champion.method == BASE_METHOD else earlier[:-1]
        rejected.add(before.champion.checkpoint)
    elif not champion.is_same(before.champion):
        earlier = (*earlier, before.champion)
        rejected.discard(champion.checkpoint)
    rivals = {
        entry.contender.checkpoint
        for name, entry in case.results.items()
        if name in trained_methods(case.project.config.all_methods)
    }
    sets = {entry.result.evaluation_set_fingerprint for entry in case.results.values()}
    evaluation_set = next(iter(sets), before.evaluation_set)
    tested = {*before.tested, *rivals} if evaluation_set == before.evaluation_set else rivals
    return Verdict(
        domain=case.slug,
        decision=judgement.decision,
        by=by,
        person=person,
        reason=judgement.reason,
        challenger=judgement.challenger,
        champion_before=before.champion,
        champion=champion,
        test=judgement.test,
        control_test=judgement.control_test,
        min_gain=case.project.config.promotion.min_gain,
        candidates=judgement.candidates,
        evaluation_set=evaluation_set,
        tested=tuple(sorted(tested)),
        reigns=earlier,
        rejected=tuple(sorted(rejected)),
        history=_history(case),
    )


def _history(case: Case) -> tuple[HistoryEntry, ...]:
    last = case.last
    verdict = case.verdict
    if last is None or (verdict.by == "rule" and verdict.decision != "promoted"):
        return verdict.history
    return (*verdict.history, verdict.as_history_entry(last))


def _parents(case: Case, verdict: Verdict) -> dict[str, Artifact]:
    """What was considered, and what must outlive pruning of the champion and the one before it."""
    parents = {method: entry.artifact for method, entry in case.results.items()}
    parents |= {one.inputs.stage: one.publish(case.project) for one in case.weighed}
    if (result := case.result_of(verdict.champion)) is not None:
        parents["champion"] = result.artifact
    previous = next(reversed(verdict.previous_champions), None)
    for name, kept in (("champion", verdict.champion), ("previous", previous)):
        if name not in parents and kept is not None and kept.method != BASE_METHOD:
            parents |= _files_of(case, name, kept)
    return parents


def _files_of(case: Case, name: str, kept: Contender) -> dict[str, Artifact]:
    """What must outlive pruning of a model: its result, which holds on to the checkpoint, or else
    the checkpoint.
    """
    store = case.project.store
    key = method_key(case.slug, kept.method)
    for stage, of, fingerprint in (
        (kept.stage, key if kept.stage == DOMAIN_RESULTS else case.slug, kept.result),
        (CUSTOMIZED_CHECKPOINT, key, kept.checkpoint),
    ):
        try:
            return {name: store.open(stage, of, fingerprint)}
        except ReactError:
            continue
    return {}


def way_out(case: Case) -> str:
    """What to do when the champion cannot be compared."""
    if case.verdict.champion.method == BASE_METHOD:
        return f"materialize `{DOMAIN_RESULTS}` for {case.slug!r} and base"
    return (
        "measure the champion on today's images with `react-pipeline models reevaluate "
        f"{case.slug}`, or take it back with `react-pipeline models rollback {case.slug} --to-base`"
    )
