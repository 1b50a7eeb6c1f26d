"""Promotion: which model is champion of a domain: the rule applied, and a person's decisions.

Does not belong here: what may be seen (`case`), the test (`judgement`), how verdicts are kept
(`chain`). The current artifact of the stage `promotion` names the champion, whether MLflow is up or
not.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from react_pipeline.lineage import fresh, fresh_or_none
from react_pipeline.project import Project
from react_pipeline.promotion.case import NEVER, Case, case_of, standing
from react_pipeline.promotion.chain import conclude
from react_pipeline.promotion.judgement import Candidate, Judgement, Measured, judge, paired_test
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, PairedTest
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


def decide(project: Project, slug: str) -> Artifact:
    """Publish the verdict on a domain's candidates; the one that is there already if nothing new
    was measured.

    A candidate is a trained method whose `domain_results` are fresh, verified and not unavailable.
    The rule is `judgement.judge`'s; of a domain without a labelled set, that of its evidence. A
    person's decision holds until a result arrives that it did not consider.

    Files: `verdict.json`, `candidates.parquet`, `candidates.csv`, `table.md`, `promotion.png`.

    Raises:
        CorruptArtifact: If the last verdict cannot be read.
    """

    def by_rule(case: Case) -> Judgement | None:
        is_same = case.last is not None and _recorded(case.last) == case.seen(case.champion)
        if is_same and fresh_or_none(project, PROMOTION, slug):
            return None
        return _apply_rule(case)

    return conclude(project, slug, by_rule)


def promotion_is_current(project: Project, slug: str) -> Artifact:
    """Return the published verdict, if the same would be decided today.

    Raises:
        MissingArtifact: If there is none.
        StaleArtifact: If results came or went, or the configuration changed.
    """
    artifact = fresh(project, PROMOTION, slug)
    case = case_of(project, slug, verify=False)  # each tick asks of every domain
    seen = case.seen(case.champion)
    if changed := sorted({name for name, _ in seen.items() ^ _recorded(artifact).items()}):
        raise StaleArtifact(
            f"`{PROMOTION}` of {slug!r} was decided on other results of {', '.join(changed)}: "
            f"rematerialize `{PROMOTION}`",
            (PROMOTION, slug),
            digest_of(seen),
        )
    return artifact


def _recorded(promotion: Artifact) -> dict[str, str]:
    return dict(promotion.manifest["content"]["results"])


def promote(project: Project, slug: str, method: str, reason: str, *, person: str = "") -> Artifact:
    """Make a method's model champion by a person's decision; the figures are recorded, and decide
    nothing.

    Args:
        person: Name of who decides.

    Raises:
        InputError: If the method cannot be champion, its model is champion already, its result is
            missing, stale or unavailable and no other evidence decides on it, or it was not
            measured on the images of the champion.
    """
    if method not in (trained := trained_methods(project.config.all_methods)):
        raise InputError(f"{method!r} cannot become champion; choose from {', '.join(trained)}")
    if not reason.strip():
        raise InputError("give a reason: it is what the next person reads")

    today = fresh(project, DOMAIN_RESULTS, method_key(slug, method))
    champion = standing(project, slug)[0].champion
    if (champion.method, champion.checkpoint) == (method, today.parents[CUSTOMIZED_CHECKPOINT]):
        raise InputError(f"{slug}: {champion.identity} is champion already; nothing to promote")

    def by_person(case: Case) -> Judgement | None:
        result = fresh(project, DOMAIN_RESULTS, method_key(slug, method))
        entry = Measured.of(result)
        chosen = _judged(case, method, result) if entry is None else entry.contender
        before = case.verdict.champion
        if chosen.is_same(before):
            return None  # another process published this decision
        test = None if entry is None else _test_over_champion(case, entry)
        tested = "" if test is None else f" ({test})"
        because = (
            f"{person or 'a person'} made {chosen.identity} champion instead of "
            f"{before.identity}{tested}: {reason.strip()}"
        )
        judgement = Judgement("promoted", because, challenger=chosen, test=test, champion=chosen)
        return replace(judgement, by="person", person=person)

    return conclude(project, slug, by_person)


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
        raise InputError(
            f"{case.slug}: no result of the champion to compare with; {_way_out(case)}"
        )
    try:
        return paired_test(entry, case.champion, case.project.config.promotion.confidence)
    except InputError as error:
        raise InputError(f"{case.slug}: {error}; {_way_out(case)}") from error


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
    judgement = _judgement(case)
    if judgement.decision == "incomparable" and case.evidence is None:
        judgement = replace(judgement, reason=f"{judgement.reason}; {_way_out(case)}")
    champion = case.champion.contender if case.champion else None
    if judgement.decision == "promoted":
        champion = judgement.challenger
    rows = [*judgement.rows, *_untested_rows(case, judgement)]
    return replace(judgement, rows=rows, champion=champion)


def _judgement(case: Case) -> Judgement:
    """Return what the rule says of the candidates of today."""
    settings = case.project.config.promotion
    champion = case.verdict.champion
    name = BASE_METHOD if champion.method == BASE_METHOD else f"the champion {champion.identity}"
    objections = _objections(case)
    if case.evidence is not None:
        left_out = {*case.verdict.rejected, *(contender.checkpoint for contender in objections)}
        judgement = case.evidence.judge(case.project, champion, name, left_out)
        held_back = [f"; {one.identity} is held back: {why}" for one, why in objections.items()]
        return replace(judgement, reason=judgement.reason + "".join(held_back))
    excluded = {champion.checkpoint, *case.verdict.rejected}
    candidates = []
    for method in case.project.config.candidates:
        result = case.measured.get(method)
        if result is None or result.contender.checkpoint in excluded:
            continue
        seeds = case.project.config.further_seeds(method) if settings.all_seeds else ()
        why = {one.checkpoint: reason for one, reason in objections.items()}
        candidates.append(
            Candidate(
                result,
                _control(case, method),
                why.get(result.contender.checkpoint, ""),
                {name: (case.results[name], _control(case, name)) for name in seeds},
            )
        )
    return judge(candidates, case.champion, name, settings)


def _control(case: Case, method: str) -> Measured | str | None:
    """Return the result of a control, or why there is none; None if the rule does not ask for it,
    or it was never measured and the project does not ask for it.
    """
    name = method + CONTROL_SUFFIX
    if name not in case.results:
        return None
    result = case.results[name]
    return None if result == NEVER and name not in case.project.config.methods else result


def _objections(case: Case) -> dict[Contender, str]:
    """Return the candidates of today, fresh or not, that may not become champion, and why."""
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


def _untested_rows(case: Case, judgement: Judgement) -> Iterator[dict[str, Any]]:
    """Yield a row for each candidate that was not tested: the champion, and those left out."""
    tested = {row["method"] for row in judgement.rows}
    for method in case.project.config.candidates:
        if method in tested:
            continue
        row: dict[str, Any] = {"method": method}
        result = case.results[method]
        if isinstance(result, Measured):
            row |= result.result.model_dump(include={"top1", "n"})
            is_rejected = result.contender.checkpoint in case.verdict.rejected
            why = "a person took it back" if is_rejected else ""
        elif case.evidence is not None and method == case.verdict.champion.method:
            why = ""
        else:
            why = result
        yield {**row, "status": "left out" if why else "champion", "why": why}


def _way_out(case: Case) -> str:
    """Return what to do when the champion cannot be compared."""
    if case.verdict.champion.method == BASE_METHOD:
        return f"materialize `{DOMAIN_RESULTS}` for {case.slug!r} and base"
    return (
        "measure the champion on today's images with `react-pipeline models reevaluate "
        f"{case.slug}`, or take it back with `react-pipeline models rollback {case.slug} --to-base`"
    )
