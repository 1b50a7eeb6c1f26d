"""Promotion: which model is champion of a domain: the rule applied, and a person's decisions.

Does not belong here: what may be seen (`evidence`), the test (`judgement`), how verdicts are kept
(`verdict_chain`). The current artifact of the stage `promotion` names the champion, whether MLflow
is up or not.
"""

from collections.abc import Mapping
from typing import Any

from react_pipeline.evaluation import RESULTS
from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion.evidence import CHECKPOINT, NEVER, STAGE, Evidence, gather, results_of
from react_pipeline.promotion.judged import judge_without_labels
from react_pipeline.promotion.judgement import Measured, judge, paired_test
from react_pipeline.promotion.verdict_chain import changed, publish, way_out
from react_pipeline.promotion.verdicts import BASE, Contender, RegistryEdit
from react_pipeline.settings import CONTROL_SUFFIX, TRAINED_METHODS
from react_pipeline.stage import method_key
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
    with project.store.locked(f"{STAGE}--{slug}"):
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
            and fresh_or_none(project, STAGE, slug)
        ):
            return last
        return _apply_rule(scene, edit, seen)


def promotion_is_current(project: Project, slug: str) -> Artifact:
    """The published verdict, if the same would be decided today.

    Raises:
        MissingArtifact: If there is none.
        StaleArtifact: If results came or went, or the configuration changed.
    """
    artifact = fresh(project, STAGE, slug)
    seen, recorded = gather(project, slug).seen, dict(artifact.manifest["content"]["results"])
    recorded.pop("registry", None)
    if changed := sorted(
        name for name in {*seen, *recorded} if seen.get(name) != recorded.get(name)
    ):
        raise StaleArtifact(
            f"`{STAGE}` of {slug!r} was decided on other results of {', '.join(changed)}: "
            f"rematerialize `{STAGE}`"
        )
    return artifact


def promote(project: Project, slug: str, method: str, reason: str) -> Artifact:
    """Make a method's model champion by a person's decision; the figures are recorded, and decide
    nothing.

    Raises:
        InputError: If the method cannot be champion, its result is missing, stale or unavailable,
            or it was not measured on the images of the champion.
    """
    if method not in TRAINED_METHODS:
        raise InputError(
            f"{method!r} cannot become champion; choose from {', '.join(TRAINED_METHODS)}"
        )
    if not reason.strip():
        raise InputError("give a reason: it is what the next person reads")
    with project.store.locked(f"{STAGE}--{slug}"):
        scene = gather(project, slug)
        entry = Measured.of(fresh(project, RESULTS, method_key(slug, method)))
        if entry is None:
            raise InputError(
                f"{slug}/{method}: its result is unavailable, and only a measured model becomes "
                "champion; without "
                f"labels, judge it: react-pipeline judge {slug} SOURCE --candidate {method}"
            )
        test = None
        if not entry.contender.is_same(scene.verdict.champion):
            if scene.champion is None:
                raise InputError(
                    f"{slug}: no result of the champion to compare with; {way_out(scene)}"
                )
            try:
                test = paired_test(entry, scene.champion, project.config.promotion.confidence)
            except InputError as error:
                raise InputError(f"{slug}: {error}; {way_out(scene)}") from error
        tested = "" if test is None else f" ({test})"
        chosen, before = entry.contender, scene.verdict.champion
        instead = (
            f" instead of {before.name_next_to(chosen)}"
            if chosen.name_next_to(before) != method
            else ""
        )
        return publish(
            scene,
            changed(
                scene,
                chosen,
                decision="promoted",
                by="person",
                reason=f"a person made {chosen.name_next_to(before)} champion{instead}{tested}: "
                f"{reason.strip()}",
                challenger=chosen,
                test=test,
                rejected=tuple(
                    name for name in scene.verdict.rejected if name != chosen.checkpoint
                ),
            ),
            note=reason,
        )


def roll_back(project: Project, slug: str, reason: str = "", *, to_base: bool = False) -> Artifact:
    """Restore the previous champion, or the base; the rule never promotes the replaced model again.

    Raises:
        InputError: If the base is champion, or the files of the model before are gone.
    """
    with project.store.locked(f"{STAGE}--{slug}"):
        scene = gather(project, slug)
        verdict = scene.verdict
        if verdict.champion.method == BASE:
            raise InputError(f"{slug}: the base is champion, so there is nothing to roll back")
        earlier = verdict.previous_champions
        target = earlier[-1] if earlier and not to_base else Contender(method=BASE)
        if target.method != BASE:
            try:
                project.store.open(CHECKPOINT, method_key(slug, target.method), target.checkpoint)
            except ReactError as error:
                raise InputError(
                    f"{slug}: {target.method} was champion before, and {error}; use --to-base"
                ) from error
        because = f": {reason.strip()}" if reason.strip() else ""
        names = verdict.champion.name_next_to(target), target.name_next_to(verdict.champion)
        after = changed(
            scene,
            target,
            decision="rolled back",
            by="person",
            reason=f"a person rolled back from {names[0]} to {names[1]}{because}",
            previous_champions=() if to_base else earlier[:-1],
            rejected=tuple(sorted({*verdict.rejected, verdict.champion.checkpoint})),
        )
        return publish(scene, after, note=reason)


def _apply_rule(scene: Evidence, edit: RegistryEdit | None, seen: Mapping[str, str]) -> Artifact:
    settings, before = scene.project.config.promotion, scene.verdict
    turned_down = {checkpoint: "a person took it back" for checkpoint in before.rejected}
    rivals = {
        method: entry
        for method in settings.candidates
        if (entry := scene.results.get(method)) is not None
        and entry.contender.checkpoint not in {before.champion.checkpoint, *turned_down}
    }
    controls: dict[str, Measured | str] = {}
    for method in rivals:
        name = method + CONTROL_SUFFIX
        if name in scene.results:
            controls[method] = scene.results[name]
        elif scene.left_out.get(name, NEVER) != NEVER:
            controls[method] = scene.left_out[name]
    namesake = rivals.get(before.champion.method)
    champion_name = (
        before.champion.name_next_to(namesake.contender) if namesake else before.champion.method
    )
    champion_text = BASE if before.champion.method == BASE else f"the champion {champion_name}"
    if scene.judgements is not None:
        found = judge_without_labels(
            scene.project, scene.judgements, before.champion, champion_text, turned_down
        )
    else:
        found = judge(rivals, scene.champion, champion_text, controls, settings)
    decision, reason = found.decision, found.reason
    if edit is not None:
        decision = "incomparable"
        reason = (
            f"version {edit.version} of react-{scene.slug} was made champion by hand and has no "
            "verified result here; nothing moves until a person decides: react-pipeline models "
            f"promote {scene.slug} METHOD"
        )
    elif decision == "incomparable" and scene.judgements is None:
        reason = f"{reason}; {way_out(scene)}"
    challenger = found.challenger
    figures: dict[str, Any] = {
        **{"decision": decision, "reason": reason, "challenger": challenger, "test": found.test},
        **{
            "control_test": found.control_test,
            "candidates": found.candidates,
            "rejected": before.rejected,
        },
    }
    if decision == "promoted" and challenger is not None:
        after = changed(scene, challenger, **figures)
    else:
        champion = scene.champion.contender if scene.champion else before.champion
        after = changed(scene, champion, previous_champions=before.previous_champions, **figures)
    rows = [*found.rows]
    tested = {row["method"] for row in found.rows}
    for method in (name for name in settings.candidates if name not in tested):
        fields, why = {}, scene.left_out.get(method, "")
        if scene.judgements is not None and method == before.champion.method:
            why = ""
        if (entry := scene.results.get(method)) is not None:
            fields = entry.result.model_dump(include={"top1", "n"})
            why = turned_down.get(entry.contender.checkpoint, "")
        rows.append(
            {"method": method, **fields, "status": "left out" if why else "champion", "why": why}
        )
    return publish(scene, after, rows, extra={"registry": seen["registry"]} if edit else {})


def _adopt(scene: Evidence, edit: RegistryEdit) -> Artifact | None:
    """What a person did in the registry, taken over as their decision; None if it cannot be, or
    changes nothing.
    """
    before = scene.verdict
    if edit.version is None:
        reason = f"a person removed the alias of {before.champion.method} in the registry, so the base is champion"
        rejected = tuple(sorted({*before.rejected, before.champion.checkpoint}))
        fields: dict[str, Any] = {
            "decision": "rolled back",
            "previous_champions": (),
            "rejected": rejected,
        }
        return publish(
            scene, changed(scene, Contender(method=BASE), by="registry", reason=reason, **fields)
        )
    if edit.method not in TRAINED_METHODS:
        return None
    known = results_of(scene.project, scene.slug, edit.method, edit.checkpoint)
    if not known:
        return None
    entry, test = known[0], None
    if scene.champion is not None:
        for candidate in known:
            try:
                test = paired_test(
                    candidate, scene.champion, scene.project.config.promotion.confidence
                )
            except InputError:
                continue
            entry = candidate
            break
    name = entry.contender.name_next_to(before.champion)
    reason = f"a person made {name} champion in the registry (version {edit.version})"
    rejected = tuple(name for name in before.rejected if name != edit.checkpoint)
    fields = {
        "decision": "promoted",
        "challenger": entry.contender,
        "test": test,
        "rejected": rejected,
    }
    return publish(scene, changed(scene, entry.contender, by="registry", reason=reason, **fields))
