"""Promotion: which model is champion of a domain: the rule applied, and a person's decisions.

Does not belong here: what may be seen (`case`), the test (`judgement`), how verdicts are kept
(`verdict_chain`). The current artifact of the stage `promotion` names the champion, whether MLflow
is up or not.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion.case import NEVER, Case, case_of, results_of
from react_pipeline.promotion.judgement import Judgement, Measured, Seeds, judge, paired_test
from react_pipeline.promotion.verdict_chain import conclude, way_out
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, PairedTest, RegistryEdit
from react_pipeline.settings import CONTROL_SUFFIX, trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    MissingArtifact,
    ReactError,
    StaleArtifact,
    digest_of,
)


def decide(project: Project, slug: str, edit: RegistryEdit | None = None) -> Artifact:
    """Publish the verdict on a domain's candidates; the one that is there already if nothing new
    was measured.

    A candidate is a trained method whose `domain_results` are fresh, verified and not unavailable.
    The rule is `judgement.judge`'s; of a domain without a labelled set, that of its evidence. A
    person's decision holds until a result arrives that it did not consider.

    Files: `verdict.json`, `candidates.parquet`, `candidates.csv`, `table.md`, `promotion.png`.

    Args:
        edit: What a person did to the alias `champion` in the registry since it was last written.
            It is adopted if it names a model whose verified result is here; else nothing moves.

    Raises:
        CorruptArtifact: If the last verdict cannot be read.
    """
    with project.store.locked(f"{PROMOTION}--{slug}"):
        case = case_of(project, slug)
        if edit is not None and edit.agrees_with(case.verdict.champion):
            edit = None
        if edit is not None and (adopted := _adopt(case, edit)):
            return adopted
        seen = {**case.seen, **({"registry": edit.version or ""} if edit else {})}
        last = case.last
        if (
            last is not None
            and last.manifest["content"]["results"] == seen
            and fresh_or_none(project, PROMOTION, slug)
        ):
            return last
        return _apply_rule(case, edit)


def promotion_is_current(project: Project, slug: str) -> Artifact:
    """The published verdict, if the same would be decided today.

    Raises:
        MissingArtifact: If there is none.
        StaleArtifact: If results came or went, or the configuration changed.
    """
    artifact = fresh(project, PROMOTION, slug)
    seen = case_of(project, slug).seen
    recorded = dict(artifact.manifest["content"]["results"])
    recorded.pop("registry", None)
    if changed := sorted({name for name, _ in seen.items() ^ recorded.items()}):
        raise StaleArtifact(
            f"`{PROMOTION}` of {slug!r} was decided on other results of {', '.join(changed)}: "
            f"rematerialize `{PROMOTION}`",
            (PROMOTION, slug),
            digest_of(seen),
        )
    return artifact


def promote(project: Project, slug: str, method: str, reason: str, *, person: str = "") -> Artifact:
    """Make a method's model champion by a person's decision; the figures are recorded, and decide
    nothing.

    Args:
        person: Name of who decides.

    Raises:
        InputError: If the method cannot be champion, its result is missing, stale or unavailable
            and no other evidence decides on it, or it was not measured on the images of the
            champion.
    """
    if method not in (trained := trained_methods(project.config.all_methods)):
        raise InputError(f"{method!r} cannot become champion; choose from {', '.join(trained)}")
    if not reason.strip():
        raise InputError("give a reason: it is what the next person reads")
    with project.store.locked(f"{PROMOTION}--{slug}"):
        case = case_of(project, slug)
        result = fresh(project, DOMAIN_RESULTS, method_key(slug, method))
        entry = Measured.of(result)
        chosen = _judged(case, method, result) if entry is None else entry.contender
        before = case.verdict.champion
        test = None
        if entry is not None and not chosen.is_same(before):
            test = _test_over_champion(case, entry)
        tested = "" if test is None else f" ({test})"
        because = (
            f"{person or 'a person'} made {chosen.identity} champion instead of "
            f"{before.identity}{tested}: {reason.strip()}"
        )
        judgement = Judgement("promoted", because, challenger=chosen, test=test)
        return conclude(case, chosen, judgement, by="person", person=person, note=reason)


def _judged(case: Case, method: str, result: Artifact) -> Contender:
    """Return a model without accuracy that the deciding evidence knows."""
    checkpoint = result.parents[CUSTOMIZED_CHECKPOINT]
    evidence = case.evidence
    if evidence is None or not evidence.sentences(checkpoint):
        raise InputError(
            f"{case.slug}/{method}: only a measured or judged model becomes champion; it was not "
            f"judged, and its result is unavailable: {result.counts.get('unavailable')}"
        )
    kept = evidence.inputs
    return Contender(
        method=method, checkpoint=checkpoint, result=kept.fingerprint, stage=kept.stage
    )


def _test_over_champion(case: Case, entry: Measured) -> PairedTest:
    if case.champion is None:
        raise InputError(f"{case.slug}: no result of the champion to compare with; {way_out(case)}")
    try:
        return paired_test(entry, case.champion, case.project.config.promotion.confidence)
    except InputError as error:
        raise InputError(f"{case.slug}: {error}; {way_out(case)}") from error


def roll_back(
    project: Project, slug: str, reason: str = "", *, to_base: bool = False, person: str = ""
) -> Artifact:
    """Restore the previous champion, or the base; the rule never promotes the replaced model again.

    Args:
        person: Name of who decides.

    Raises:
        InputError: If the base is champion, or the files of the model before are gone.
    """
    with project.store.locked(f"{PROMOTION}--{slug}"):
        case = case_of(project, slug)
        verdict = case.verdict
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
        because = f"{person or 'a person'} rolled back from {verdict.champion.identity} to "
        because += target.identity
        because += f": {reason.strip()}" if reason.strip() else ""
        judgement = Judgement("rolled back", because)
        return conclude(case, target, judgement, by="person", person=person, note=reason)


def _apply_rule(case: Case, edit: RegistryEdit | None) -> Artifact:
    turned_down = dict.fromkeys(case.verdict.rejected, "a person took it back")
    judgement = _judgement(case, turned_down)
    if edit is not None:
        reason = (
            f"version {edit.version} of react-{case.slug} was made champion by hand and has no "
            "verified result here; nothing moves until a person decides: react-pipeline models "
            f"promote {case.slug} METHOD"
        )
        judgement = replace(judgement, decision="incomparable", reason=reason)
    elif judgement.decision == "incomparable" and case.evidence is None:
        judgement = replace(judgement, reason=f"{judgement.reason}; {way_out(case)}")
    champion = case.champion.contender if case.champion else case.verdict.champion
    if judgement.decision == "promoted" and judgement.challenger is not None:
        champion = judgement.challenger
    rows = [*judgement.rows, *_untested_rows(case, judgement, turned_down)]
    return conclude(case, champion, judgement, rows=rows, registry=edit.version if edit else None)


def _judgement(case: Case, turned_down: Mapping[str, str]) -> Judgement:
    """What the rule says of the candidates of today."""
    settings = case.project.config.promotion
    champion = case.verdict.champion
    name = BASE_METHOD if champion.method == BASE_METHOD else f"the champion {champion.identity}"
    objections = _objections(case)
    if case.evidence is not None:
        left_out = {*turned_down, *(contender.checkpoint for contender in objections)}
        judgement = case.evidence.judge(case.project, champion, name, left_out)
        held_back = [f"; {one.identity} is held back: {why}" for one, why in objections.items()]
        return replace(judgement, reason=judgement.reason + "".join(held_back))
    excluded = {champion.checkpoint, *turned_down}
    rivals = {}
    controls: dict[str, Measured | str] = {}
    for method in case.project.config.candidates:
        entry = case.results.get(method)
        if entry is None or entry.contender.checkpoint in excluded:
            continue
        rivals[method] = entry
        if (control := _control(case, method)) is not None:
            controls[method] = control
    by_checkpoint = {contender.checkpoint: why for contender, why in objections.items()}
    seeds = {method: _further_seeds(case, method) for method in rivals if settings.all_seeds}
    return judge(rivals, case.champion, name, controls, settings, by_checkpoint, seeds)


def _control(case: Case, method: str) -> Measured | str | None:
    """The result of a control, or why there is none; None if it was never measured and the project
    does not ask for it.
    """
    name = method + CONTROL_SUFFIX
    if (entry := case.results.get(name)) is not None:
        return entry
    reason = case.left_out.get(name, NEVER)
    return None if reason == NEVER and name not in case.project.config.methods else reason


def _further_seeds(case: Case, method: str) -> Seeds:
    return {
        name: (case.results.get(name) or case.left_out[name], _control(case, name))
        for name in case.project.config.further_seeds(method)
    }


def _objections(case: Case) -> dict[Contender, str]:
    """Candidates of today, fresh or not, that may not become champion, and why."""
    objections: dict[Contender, str] = {}
    for method in case.project.config.candidates if case.objecting else ():
        key = method_key(case.slug, method)
        try:
            checkpoint = case.project.store.current(CUSTOMIZED_CHECKPOINT, key)
        except MissingArtifact:
            continue
        contender = Contender(method=method, checkpoint=checkpoint.fingerprint)
        reasons = [one.objection(case.project, contender) for one in case.objecting]
        if any(reasons):
            objections[contender] = "; ".join(filter(None, reasons))
    return objections


def _untested_rows(
    case: Case, judgement: Judgement, turned_down: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the candidates that were not tested: the champion, and those left out."""
    rows = []
    tested = {row["method"] for row in judgement.rows}
    for method in case.project.config.candidates:
        if method in tested:
            continue
        row: dict[str, Any] = {"method": method}
        reason = case.left_out.get(method, "")
        if case.evidence is not None and method == case.verdict.champion.method:
            reason = ""
        if (entry := case.results.get(method)) is not None:
            row |= entry.result.model_dump(include={"top1", "n"})
            reason = turned_down.get(entry.contender.checkpoint, "")
        rows.append({**row, "status": "left out" if reason else "champion", "why": reason})
    return rows


def _adopt(case: Case, edit: RegistryEdit) -> Artifact | None:
    """What a person did in the registry, taken over as their decision; None if it cannot be, or
    changes nothing.
    """
    if edit.version is None:
        reason = (
            f"a person removed the alias of {case.verdict.champion.method} in the registry, so the "
            "base is champion"
        )
        base = Contender(method=BASE_METHOD)
        return conclude(case, base, Judgement("rolled back", reason), by="registry")
    if edit.method not in trained_methods(case.project.config.all_methods):
        return None
    results = results_of(case.project, case.slug, edit.method, edit.checkpoint)
    if not results:
        return None
    entry = results[0]
    test = None
    for candidate in results if case.champion is not None else ():
        with suppress(InputError):
            test = _test_over_champion(case, candidate)
            entry = candidate
            break
    chosen = entry.contender
    reason = f"a person made {chosen.identity} champion in the registry (version {edit.version})"
    judgement = Judgement("promoted", reason, challenger=chosen, test=test)
    return conclude(case, chosen, judgement, by="registry")
