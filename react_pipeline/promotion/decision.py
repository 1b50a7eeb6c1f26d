"""Promotion: which model is champion of a domain: the rule applied, and a person's decisions.

Does not belong here: what may be seen (`evidence`), the test (`judgement`), how verdicts are kept
(`verdict_chain`). The current artifact of the stage `promotion` names the champion, whether MLflow
is up or not.
"""

from collections.abc import Mapping
from typing import Any

from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion.evidence import NEVER, Evidence, gather, results_of
from react_pipeline.promotion.judged import judge_without_labels
from react_pipeline.promotion.judgement import Judgement, Measured, judge, paired_test
from react_pipeline.promotion.verdict_chain import changed, publish, way_out
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, PairedTest, RegistryEdit
from react_pipeline.settings import CONTROL_SUFFIX, trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import Artifact, InputError, ReactError, StaleArtifact


def decide(project: Project, slug: str, edit: RegistryEdit | None = None) -> Artifact:
    """Publish the verdict on a domain's candidates; the one that is there already if nothing new
    was measured.

    A candidate is a trained method whose `domain_results` are fresh, verified and not unavailable.
    The rule is `judgement.judge`'s; of a domain without a labelled set,
    `judged.judge_without_labels`'s. A person's decision holds until a result arrives that it did
    not consider.

    Files: `verdict.json`, `candidates.parquet`, `candidates.csv`, `table.md`, `promotion.png`.

    Args:
        edit: What a person did to the alias `champion` in the registry since it was last written.
            It is adopted if it names a model whose verified result is here; else nothing moves.

    Raises:
        CorruptArtifact: If the last verdict cannot be read.
    """
    with project.store.locked(f"{PROMOTION}--{slug}"):
        scene = gather(project, slug)
        if edit is not None and edit.agrees_with(scene.verdict.champion):
            edit = None
        if edit is not None and (adopted := _adopt(scene, edit)):
            return adopted
        seen = {**scene.seen, **({"registry": edit.version or ""} if edit else {})}
        last = scene.last
        if (
            last is not None
            and last.manifest["content"]["results"] == seen
            and fresh_or_none(project, PROMOTION, slug)
        ):
            return last
        return _apply_rule(scene, edit, seen)


def promotion_is_current(project: Project, slug: str) -> Artifact:
    """The published verdict, if the same would be decided today.

    Raises:
        MissingArtifact: If there is none.
        StaleArtifact: If results came or went, or the configuration changed.
    """
    artifact = fresh(project, PROMOTION, slug)
    seen = gather(project, slug).seen
    recorded = dict(artifact.manifest["content"]["results"])
    recorded.pop("registry", None)
    if changed := sorted(
        name for name in {*seen, *recorded} if seen.get(name) != recorded.get(name)
    ):
        raise StaleArtifact(
            f"`{PROMOTION}` of {slug!r} was decided on other results of {', '.join(changed)}: "
            f"rematerialize `{PROMOTION}`"
        )
    return artifact


def promote(project: Project, slug: str, method: str, reason: str) -> Artifact:
    """Make a method's model champion by a person's decision; the figures are recorded, and decide
    nothing.

    Raises:
        InputError: If the method cannot be champion, its result is missing, stale or unavailable,
            or it was not measured on the images of the champion.
    """
    if method not in trained_methods():
        raise InputError(
            f"{method!r} cannot become champion; choose from {', '.join(trained_methods())}"
        )
    if not reason.strip():
        raise InputError("give a reason: it is what the next person reads")
    with project.store.locked(f"{PROMOTION}--{slug}"):
        scene = gather(project, slug)
        entry = Measured.of(fresh(project, DOMAIN_RESULTS, method_key(slug, method)))
        if entry is None:
            raise InputError(
                f"{slug}/{method}: its result is unavailable, and only a measured model becomes "
                "champion; without "
                f"labels, judge it: react-pipeline judge {slug} SOURCE --candidate {method}"
            )
        chosen = entry.contender
        before = scene.verdict.champion
        test = None if chosen.is_same(before) else _test_over_champion(scene, entry)
        tested = "" if test is None else f" ({test})"
        verdict = changed(
            scene,
            chosen,
            decision="promoted",
            by="person",
            reason=f"a person made {chosen.identity} champion instead of "
            f"{before.identity}{tested}: {reason.strip()}",
            challenger=chosen,
            test=test,
            rejected=tuple(name for name in scene.verdict.rejected if name != chosen.checkpoint),
        )
        return publish(scene, verdict, note=reason)


def _test_over_champion(scene: Evidence, entry: Measured) -> PairedTest:
    if scene.champion is None:
        raise InputError(
            f"{scene.slug}: no result of the champion to compare with; {way_out(scene)}"
        )
    try:
        return paired_test(entry, scene.champion, scene.project.config.promotion.confidence)
    except InputError as error:
        raise InputError(f"{scene.slug}: {error}; {way_out(scene)}") from error


def roll_back(project: Project, slug: str, reason: str = "", *, to_base: bool = False) -> Artifact:
    """Restore the previous champion, or the base; the rule never promotes the replaced model again.

    Raises:
        InputError: If the base is champion, or the files of the model before are gone.
    """
    with project.store.locked(f"{PROMOTION}--{slug}"):
        scene = gather(project, slug)
        verdict = scene.verdict
        if verdict.champion.method == BASE_METHOD:
            raise InputError(f"{slug}: the base is champion, so there is nothing to roll back")
        earlier = verdict.previous_champions
        target = earlier[-1] if earlier and not to_base else Contender(method=BASE_METHOD)
        if target.method != BASE_METHOD:
            try:
                project.store.open(
                    CUSTOMIZED_CHECKPOINT, method_key(slug, target.method), target.checkpoint
                )
            except ReactError as error:
                raise InputError(
                    f"{slug}: {target.method} was champion before, and {error}; use --to-base"
                ) from error
        because = f": {reason.strip()}" if reason.strip() else ""
        after = changed(
            scene,
            target,
            decision="rolled back",
            by="person",
            reason=f"a person rolled back from {verdict.champion.identity} to {target.identity}"
            f"{because}",
            previous_champions=() if to_base else earlier[:-1],
            rejected=tuple(sorted({*verdict.rejected, verdict.champion.checkpoint})),
        )
        return publish(scene, after, note=reason)


def _apply_rule(scene: Evidence, edit: RegistryEdit | None, seen: Mapping[str, str]) -> Artifact:
    before = scene.verdict
    turned_down = {checkpoint: "a person took it back" for checkpoint in before.rejected}
    judgement = _judgement(scene, turned_down)
    decision = judgement.decision
    reason = judgement.reason
    if edit is not None:
        decision = "incomparable"
        reason = (
            f"version {edit.version} of react-{scene.slug} was made champion by hand and has no "
            "verified result here; nothing moves until a person decides: react-pipeline models "
            f"promote {scene.slug} METHOD"
        )
    elif decision == "incomparable" and scene.judgements is None:
        reason = f"{reason}; {way_out(scene)}"
    fields: dict[str, Any] = {
        "decision": decision,
        "reason": reason,
        "challenger": judgement.challenger,
        "test": judgement.test,
        "control_test": judgement.control_test,
        "candidates": judgement.candidates,
        "rejected": before.rejected,
    }
    if decision == "promoted" and judgement.challenger is not None:
        after = changed(scene, judgement.challenger, **fields)
    else:
        champion = scene.champion.contender if scene.champion else before.champion
        after = changed(scene, champion, previous_champions=before.previous_champions, **fields)
    rows = [*judgement.rows, *_untested_rows(scene, judgement, turned_down)]
    return publish(scene, after, rows, extra={"registry": seen["registry"]} if edit else {})


def _judgement(scene: Evidence, turned_down: Mapping[str, str]) -> Judgement:
    """What the rule says of the candidates of today."""
    settings = scene.project.config.promotion
    champion = scene.verdict.champion
    name = BASE_METHOD if champion.method == BASE_METHOD else f"the champion {champion.identity}"
    if scene.judgements is not None:
        return judge_without_labels(scene.project, scene.judgements, champion, name, turned_down)
    excluded = {champion.checkpoint, *turned_down}
    rivals = {}
    controls: dict[str, Measured | str] = {}
    for method in settings.candidates:
        entry = scene.results.get(method)
        if entry is None or entry.contender.checkpoint in excluded:
            continue
        rivals[method] = entry
        control = method + CONTROL_SUFFIX
        if control in scene.results:
            controls[method] = scene.results[control]
        elif scene.left_out.get(control, NEVER) != NEVER:
            controls[method] = scene.left_out[control]
    return judge(rivals, scene.champion, name, controls, settings)


def _untested_rows(
    scene: Evidence, judgement: Judgement, turned_down: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the candidates that were not tested: the champion, and those left out."""
    rows = []
    tested = {row["method"] for row in judgement.rows}
    for method in scene.project.config.promotion.candidates:
        if method in tested:
            continue
        row: dict[str, Any] = {"method": method}
        reason = scene.left_out.get(method, "")
        if scene.judgements is not None and method == scene.verdict.champion.method:
            reason = ""
        if (entry := scene.results.get(method)) is not None:
            row |= entry.result.model_dump(include={"top1", "n"})
            reason = turned_down.get(entry.contender.checkpoint, "")
        rows.append({**row, "status": "left out" if reason else "champion", "why": reason})
    return rows


def _adopt(scene: Evidence, edit: RegistryEdit) -> Artifact | None:
    """What a person did in the registry, taken over as their decision; None if it cannot be, or
    changes nothing.
    """
    before = scene.verdict
    if edit.version is None:
        reason = (
            f"a person removed the alias of {before.champion.method} in the registry, so the base "
            "is champion"
        )
        rejected = tuple(sorted({*before.rejected, before.champion.checkpoint}))
        fields: dict[str, Any] = {
            "decision": "rolled back",
            "previous_champions": (),
            "rejected": rejected,
        }
        return publish(
            scene,
            changed(scene, Contender(method=BASE_METHOD), by="registry", reason=reason, **fields),
        )
    if edit.method not in trained_methods():
        return None
    results = results_of(scene.project, scene.slug, edit.method, edit.checkpoint)
    if not results:
        return None
    entry = results[0]
    test = None
    if scene.champion is not None:
        for candidate in results:
            try:
                test = paired_test(
                    candidate, scene.champion, scene.project.config.promotion.confidence
                )
            except InputError:
                continue
            entry = candidate
            break
    reason = (
        f"a person made {entry.contender.identity} champion in the registry (version "
        f"{edit.version})"
    )
    rejected = tuple(name for name in before.rejected if name != edit.checkpoint)
    fields = {
        "decision": "promoted",
        "challenger": entry.contender,
        "test": test,
        "rejected": rejected,
    }
    return publish(scene, changed(scene, entry.contender, by="registry", reason=reason, **fields))
