"""Promotion: which model is champion of a domain: the rule applied, and a person's decisions.

Does not belong here: what may be seen and how a verdict is published (`chain`), the test
(`judgement`).
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion.chain import NEVER, Case, build_case, conclude, standing
from react_pipeline.promotion.judgement import (
    Candidate,
    Judgement,
    Measured,
    judge,
    paired_test,
)
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, PairedTest
from react_pipeline.settings import CONTROL_SUFFIX, trained_methods
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    MissingArtifact,
    ReactError,
    StaleArtifact,
    hash_value,
)


def decide(project: Project, slug: str) -> Artifact:
    """Publish the verdict on a domain's candidates; the one that is there already if nothing new
    was measured.

    A candidate is a trained method whose `domain_results` are fresh and not unavailable. The rule
    is `judgement.judge`'s; of a domain without a labelled set, that of its evidence. A person's
    decision holds until a result arrives that it did not consider.

    Files: `verdict.json`, `table.md`.

    Raises:
        CorruptArtifact: If the last verdict, or a result, cannot be read.
    """

    def by_rule(case: Case) -> Judgement | None:
        is_known = case.last is not None and not case.news
        return None if is_known and fresh_or_none(project, PROMOTION, slug) else _apply_rule(case)

    return conclude(project, slug, by_rule)


def promotion_is_current(project: Project, slug: str) -> Artifact:
    """Return the published verdict, if the same would be decided today.

    Raises:
        MissingArtifact: If there is none.
        StaleArtifact: If results came or went, or the configuration changed.
    """
    artifact = fresh(project, PROMOTION, slug)
    case = build_case(project, slug)
    if case.news:
        raise StaleArtifact(
            f"`{PROMOTION}` of {slug!r} was decided on other results of {', '.join(case.news)}: "
            f"rematerialize `{PROMOTION}`",
            (PROMOTION, slug),
            hash_value(case.seen(case.champion)),
        )
    return artifact


def promote(project: Project, slug: str, method: str, reason: str, *, person: str = "") -> Artifact:
    """Make a method's model champion by a person's decision; the figures are recorded, and decide
    nothing.

    Args:
        person: Name of who decides.

    Raises:
        InputError: If the method cannot be champion, its model is champion already, its result is
            missing, stale or unavailable and no other evidence decides on it.
    """
    if method not in (trained := trained_methods(project.config.all_methods)):
        raise InputError(f"{method!r} cannot become champion; choose from {', '.join(trained)}")
    if not reason.strip():
        raise InputError("give a reason: it is what the next person reads")
    result = fresh(project, DOMAIN_RESULTS, method_key(slug, method))
    checkpoint = result.parents[CUSTOMIZED_CHECKPOINT]
    champion = standing(project, slug)[0].champion
    if champion.is_same(Contender(method=method, checkpoint=checkpoint)):
        raise InputError(f"{slug}: {champion.identity} is champion already; nothing to promote")

    def by_person(case: Case) -> Judgement | None:
        before = case.verdict.champion
        entry = case.result(method)
        test: PairedTest | str = ""
        if isinstance(entry, Measured):
            confidence = project.config.promotion.confidence
            chosen, test = entry.contender, paired_test(entry, case.champion, confidence)
        else:
            chosen = _judged(case, method, checkpoint, why=entry)
        if chosen.is_same(before):
            return None  # another process published this decision
        who = person or "a person"
        because = (
            f"{who} made {chosen.identity} champion instead of {before.identity}"
            f"{f' ({test})' if test else ''}: {reason.strip()}"
        )
        return Judgement(
            "promoted",
            because,
            challenger=chosen,
            test=test if isinstance(test, PairedTest) else None,
            champion=chosen,
            by="person",
            person=person,
        )

    return conclude(project, slug, by_person)


def _judged(case: Case, method: str, checkpoint: str, why: str) -> Contender:
    """Return a model without accuracy that the deciding evidence knows."""
    if case.deciding is None or not case.deciding.sentences(checkpoint):
        raise InputError(
            f"{case.slug}/{method}: only a measured or judged model becomes champion; it was not "
            f"judged, and its result is {why}"
        )
    kept = case.deciding.inputs
    return Contender(
        method=method, checkpoint=checkpoint, result=kept.fingerprint, stage=kept.stage
    )


def roll_back(
    project: Project, slug: str, reason: str = "", *, to_base: bool = False, person: str = ""
) -> Artifact:
    """Restore the previous champion, or the base; the rule never promotes the replaced model again.

    Args:
        person: Name of who decides.

    Raises:
        InputError: If the base is champion, or the files of the model before are gone.
    """

    def by_person(case: Case) -> Judgement:
        champion = case.verdict.champion
        if champion.method == BASE_METHOD:
            raise InputError(f"{slug}: the base is champion, so there is nothing to roll back")
        earlier = () if to_base else case.verdict.previous_champions
        target = earlier[-1] if earlier else Contender(method=BASE_METHOD)
        if target.method != BASE_METHOD:
            key = method_key(slug, target.method)
            try:
                project.store.open(CUSTOMIZED_CHECKPOINT, key, target.checkpoint)
            except ReactError as error:
                raise InputError(
                    f"{slug}: {target.method} was champion before, and {error}; use --to-base"
                ) from error
        because = f"{person or 'a person'} rolled back from {champion.identity} to "
        because += target.identity
        because += f": {reason.strip()}" if reason.strip() else ""
        return Judgement("rolled back", because, champion=target, by="person", person=person)

    return conclude(project, slug, by_person)


def _apply_rule(case: Case) -> Judgement:
    """Return what the rule says of the candidates of today."""
    champion = case.verdict.champion
    name = BASE_METHOD if champion.method == BASE_METHOD else f"the champion {champion.identity}"
    objections = _objections(case)
    if case.deciding is not None:
        left_out = {*case.verdict.rejected, *(one.checkpoint for one in objections)}
        judgement = case.deciding.judge(case.project, champion, name, left_out)
        held_back = [f"; {one.identity} is held back: {why}" for one, why in objections.items()]
        judgement = replace(judgement, reason=judgement.reason + "".join(held_back))
    else:
        candidates = _candidates(case, {one.checkpoint: why for one, why in objections.items()})
        judgement = judge(list(candidates), case.champion, name, case.project.config.promotion)
        if judgement.decision == "incomparable":
            judgement = replace(judgement, reason=f"{judgement.reason}; {_way_out(case)}")
    promoted = judgement.challenger if judgement.decision == "promoted" else None
    rows = [*judgement.rows, *_untested_rows(case, judgement)]
    return replace(judgement, rows=rows, champion=promoted)


def _candidates(case: Case, objections: dict[str, str]) -> Iterator[Candidate]:
    """Yield the candidates with their controls; without one if the rule does not ask for it, or it
    was never measured and the project does not ask for it.
    """
    config = case.project.config
    excluded = {case.verdict.champion.checkpoint, *case.verdict.rejected}
    for method in config.candidates:
        result = case.result(method)
        if isinstance(result, str) or result.contender.checkpoint in excluded:
            continue
        name = method + CONTROL_SUFFIX
        control = case.result(name)
        is_asked_for = control != NEVER or name in config.methods
        used = control if config.promotion.over_control and is_asked_for else None
        yield result, used, objections.get(result.contender.checkpoint, "")


def _objections(case: Case) -> dict[Contender, str]:
    """Return the candidates of today, fresh or not, that may not become champion, and why."""
    objections: dict[Contender, str] = {}
    for method in case.project.config.candidates if case.evidence else ():
        with suppress(MissingArtifact):
            checkpoint = case.project.store.current(
                CUSTOMIZED_CHECKPOINT, method_key(case.slug, method)
            )
            contender = Contender(method=method, checkpoint=checkpoint.fingerprint)
            reasons = (one.objection(case.project, contender) for one in case.evidence.values())
            if why := "; ".join(filter(None, reasons)):
                objections[contender] = why
    return objections


def _untested_rows(case: Case, judgement: Judgement) -> Iterator[dict[str, Any]]:
    """Yield a row for each candidate that was not tested: the champion, and those left out."""
    tested = {row["method"] for row in judgement.rows}
    for method in case.project.config.candidates:
        if method in tested:
            continue
        result, why = case.result(method), ""
        if isinstance(result, Measured):
            if result.contender.checkpoint in case.verdict.rejected:
                why = "a person took it back"
        elif case.deciding is None or method != case.verdict.champion.method:
            why = result
        yield {"method": method, "status": "left out" if why else "champion", "why": why}


def _way_out(case: Case) -> str:
    """Return what to do when the champion cannot be compared."""
    if case.verdict.champion.method == BASE_METHOD:
        return f"materialize `{DOMAIN_RESULTS}` for {case.slug!r} and base"
    return (
        f"promote a model by hand with `react-pipeline models promote {case.slug} METHOD "
        f'--reason "..."`, or start from the base with `react-pipeline models rollback {case.slug} '
        "--to-base`"
    )
