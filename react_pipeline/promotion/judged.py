"""The rule without labels: whether a candidate's lead over the champion, as a person judged it, is more than noise.

Belongs here: the same choice among candidates as in `judgement`, by confidence sequences instead of measured results.
Does not belong here: judging pictures (`use.judge`), the sequences (`evaluation.confidence_sequence`).
"""

from collections.abc import Collection

from react_pipeline.evaluation import Judgements, Session, Side, present_model
from react_pipeline.project import Project
from react_pipeline.promotion.judgement import Judgement, objection
from react_pipeline.promotion.verdicts import BASE, Contender, Decision, PairedTest
from react_pipeline.settings import CONTROL_SUFFIX, PromotionConfig
from react_pipeline.store import CorruptArtifact, InputError


def judge_without_labels(
    project: Project, slug: str, judgements: Judgements, champion: Contender, turned_down: Collection[str]
) -> Judgement:
    """Test every candidate that a person judged against the champion, and name the best.

    All K sessions against the champion are tested, each at a confidence of 1 - (1 - confidence) / K; those of one
    candidate are as many tries, of which the one that was begun last counts. A sequence is valid whenever the judge
    stopped, so nothing else is corrected. Of those that pass, the highest estimate is promoted.

    Args:
        turned_down: Checkpoints that a person took back.
    """
    settings, present = project.config.promotion, {}
    for method in (BASE, *settings.candidates, *(name + CONTROL_SUFFIX for name in settings.candidates)):
        try:
            present[method] = present_model(project, slug, method)
        except (InputError, CorruptArtifact):
            continue
    holder = present.get(BASE) if champion.method == BASE else _side(champion)
    rivals = [present[name] for name in settings.candidates if name in present and present[name] != holder]
    rivals = [side for side in rivals if side.checkpoint not in turned_down]
    if holder is None:
        return Judgement("incomparable", "no base to compare with; materialize `base_checkpoint`", [])
    sessions = [one for one in judgements.sessions if one.header.against == holder and one.header.candidate in rivals]
    name = BASE if champion.method == BASE else f"the champion {champion.method}"
    if not sessions:
        why = f"{name} stays: no present candidate was judged against it (react-pipeline judge {slug} SOURCE)"
        return Judgement("nothing", why, [])
    confidence = 1 - (1 - settings.confidence) / len(sessions)
    found = []
    for side in rivals:
        if (session := judgements.latest(side, holder)) is not None:
            control = present.get(side.method + CONTROL_SUFFIX)
            against_control = judgements.latest(side, control) if control and settings.over_control else None
            found.append(_test(session, against_control, judgements.inputs.fingerprint, settings, confidence, name))
    found.sort(key=lambda one: -one.test.gain if one.test else 0.0)
    best = next((one for one in found if one.decision == "promoted"), found[0])
    rows = [row for one in found for row in one.rows]
    return Judgement(best.decision, best.reason, rows, best.challenger, best.test, best.control_test, len(sessions))


def _test(
    session: Session,
    against_control: Session | None,
    fingerprint: str,
    settings: PromotionConfig,
    confidence: float,
    champion_name: str,
) -> Judgement:
    side, images = session.header.candidate, session.header.images
    test = judged_test(session, confidence)
    control_test = judged_test(against_control, confidence) if against_control else None
    why = objection(test, control_test, None, settings, champion_name)
    decision: Decision = "promoted" if not why else "challenger" if test.gain > 0 else "kept"
    if not why and not settings.enabled:
        decision, why = "challenger", "`promotion.enabled` is false, so a person decides"
    reason = f"judged without labels: {side.method} over {champion_name} {test}"
    if control_test is not None:
        reason += f"; over its control {control_test}"
    elif decision == "promoted" and settings.over_control:
        reason += "; its control was not judged"
    reason += f"; {side.method} becomes champion" if decision == "promoted" else f"; {champion_name} stays: {why}"
    row = {"method": side.method, "n": images, "judged": test.judged, "status": decision, "why": why}
    row |= {"checkpoint": side.checkpoint, **test.model_dump(include={"gain", "low", "high", "p_value", "confidence"})}
    if control_test is not None:
        row |= {"control_gain": control_test.gain, "control_low": control_test.low, "control_high": control_test.high}
    contender = Contender(
        method=side.method, checkpoint=side.checkpoint, result=fingerprint, stage="judgements", n=images
    )
    return Judgement(decision, reason, [row], contender, test, control_test)


def judged_test(session: Session, confidence: float) -> PairedTest:
    """The confidence sequence of a session in the form of a paired test."""
    found = session.difference(confidence)
    return PairedTest(
        gain=found.estimate,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        confidence=confidence,
        n=session.header.images,
        judged=len(session.entries),
    )


def has_labels(project: Project, slug: str) -> bool:
    """Whether the domain names a labelled set; then judgements decide nothing, measuring does."""
    try:
        return project.domain(slug).evaluation is not None
    except InputError:  # its file is gone
        return True


def _side(contender: Contender) -> Side:
    return Side(method=contender.method, checkpoint=contender.checkpoint)
