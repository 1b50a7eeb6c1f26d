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

from react_pipeline.evaluation import JUDGEMENTS
from react_pipeline.lineage import resolve
from react_pipeline.promotion.evidence import REEVALUATED, Evidence
from react_pipeline.promotion.report import write_report
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, HistoryEntry, Verdict
from react_pipeline.settings import trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import Artifact, ReactError


def changed(scene: Evidence, champion: Contender, **fields: Any) -> Verdict:
    """The next verdict, with a new `champion`; the last champion joins `previous_champions` unless
    these are given.
    """
    before = scene.verdict
    if champion.method == BASE_METHOD and BASE_METHOD in scene.results:
        champion = scene.results[BASE_METHOD].contender
    earlier = before.previous_champions
    if not champion.is_same(before.champion):
        earlier = (*earlier, before.champion)
    rivals = {
        entry.contender.checkpoint
        for name, entry in scene.results.items()
        if name in trained_methods()
    }
    sets = {entry.result.evaluation_set_fingerprint for entry in scene.results.values()}
    evaluation_set = next(iter(sets), before.evaluation_set)
    tested = {*before.tested, *rivals} if evaluation_set == before.evaluation_set else rivals
    fields_of_scene = {
        "domain": scene.slug,
        "champion_before": before.champion,
        "champion": champion,
    }
    fields_of_scene |= {
        "previous_champions": earlier,
        "min_gain": scene.project.config.promotion.min_gain,
        "history": _history(scene),
    }
    return Verdict(
        **{
            **fields_of_scene,
            "evaluation_set": evaluation_set,
            "tested": tuple(sorted(tested)),
            **fields,
        }
    )


def _history(scene: Evidence) -> tuple[HistoryEntry, ...]:
    last = scene.last
    verdict = scene.verdict
    if last is None or (verdict.by == "rule" and verdict.decision != "promoted"):
        return verdict.history
    return (*verdict.history, verdict.as_history_entry(last))


def publish(
    scene: Evidence,
    verdict: Verdict,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    note: str = "",
    extra: Mapping[str, str] | None = None,
) -> Artifact:
    """Publish a verdict. Call it with the domain's lock held, so that no other verdict follows the
    same one.

    Args:
        extra: What else was considered, apart from the results.
    """
    champion = scene.result_of(verdict.champion)
    parents = {method: entry.artifact for method, entry in scene.results.items()}
    if scene.judgements is not None:
        parents[JUDGEMENTS] = scene.judgements.publish(scene.project)
    if champion is not None:
        parents["champion"] = champion.artifact
    previous = next(reversed(verdict.previous_champions), None)
    for name, kept in (("champion", verdict.champion), ("previous", previous)):
        if name not in parents and kept is not None and kept.method != BASE_METHOD:
            parents |= _files_of(scene, name, kept)
    content = {
        "before": scene.last.fingerprint if scene.last else "",
        "results": {**scene.seen_with(champion), **(extra or {})},
        "decision": verdict.decision,
        "by": verdict.by,
        "champion": verdict.champion.checkpoint,
        "note": note,
    }
    inputs = resolve(scene.project, PROMOTION, scene.slug, parents=parents, content=content)
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

    def write(directory: Path) -> dict[str, Any]:
        write_report(directory, verdict, rows)
        return counts

    return scene.project.store.build(inputs, write)


def _files_of(scene: Evidence, name: str, kept: Contender) -> dict[str, Artifact]:
    """What must outlive pruning of a model: its result, which holds on to the checkpoint, or else
    the checkpoint.
    """
    store = scene.project.store
    key = method_key(scene.slug, kept.method)
    for stage, of, fingerprint in (
        (kept.stage, scene.slug if kept.stage in (REEVALUATED, JUDGEMENTS) else key, kept.result),
        (CUSTOMIZED_CHECKPOINT, key, kept.checkpoint),
    ):
        try:
            return {name: store.open(stage, of, fingerprint)}
        except ReactError:
            continue
    return {}


def way_out(scene: Evidence) -> str:
    """What to do when the champion cannot be compared."""
    if scene.verdict.champion.method == BASE_METHOD:
        return f"materialize `{DOMAIN_RESULTS}` for {scene.slug!r} and base"
    return (
        "measure the champion on today's images with `react-pipeline models reevaluate "
        f"{scene.slug}`, or take it back "
        f"with `react-pipeline models rollback {scene.slug} --to-base`"
    )
