"""The rule without labels: the choice of `judgement`, by confidence sequences instead of measured
results.

Does not belong here: judging pictures (`page`), the sequences (`confidence_sequence`).
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from react_pipeline.extensions.judging.judgements import Judgements, present_model
from react_pipeline.extensions.judging.log import Session, Side
from react_pipeline.project import Project
from react_pipeline.promotion import (
    BASE_METHOD,
    Contender,
    Judgement,
    PairedTest,
    Tested,
    choose,
)
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import CorruptArtifact, InputError


def judge_without_labels(
    project: Project,
    judgements: Judgements,
    champion: Contender,
    champion_name: str,
    turned_down: Collection[str],
) -> Judgement:
    """Test every candidate that a person judged against the champion, and name the best.

    All K sessions against the champion are tested, each at a confidence of 1 - (1 - confidence) /
    K; those of one candidate are as many tries, of which the one that was begun last counts. A
    sequence is valid whenever the judge stopped, so nothing else is corrected. Of those that pass,
    the highest estimate is promoted.

    For the arguments see `Evidence.judge`.
    """
    settings = project.config.promotion
    slug = judgements.inputs.key
    present = present_models(project, slug)
    if champion.method == BASE_METHOD:
        holder = present.get(BASE_METHOD)
    else:
        holder = Side(method=champion.method, checkpoint=champion.checkpoint)
    if holder is None:
        return Judgement("incomparable", "no base to compare with; materialize `base_checkpoint`")
    models = [present[name] for name in project.config.candidates if name in present]
    rivals = [one for one in models if one != holder and one.checkpoint not in turned_down]
    tries = sum(
        one.header.against == holder and one.header.candidate in rivals
        for one in judgements.sessions
    )
    if not tries:
        judged = {
            one.header.candidate.method
            for one in judgements.sessions
            if one.header.against == holder and one.header.candidate not in models
        }
        reason = "no present candidate was judged against it"
        if judged:
            names = ", ".join(sorted(judged))
            reason += f" (the judged model of {names} is out of date: build it, and judge it again)"
        way = f"react-pipeline judge {slug} SOURCE"
        return Judgement("nothing", f"{champion_name} stays: {reason}: {way}")
    confidence = 1 - (1 - settings.confidence) / tries
    tested: list[Tested] = []
    gains: dict[Contender, float] = {}
    for side in rivals:
        session = judgements.latest(side, holder)
        if session is None:
            continue
        contender = Contender(
            **side.model_dump(),
            result=judgements.inputs.fingerprint,
            stage="judgements",
            n=session.header.images,
        )
        test = _test_of(session, confidence)
        control = present.get(side.method + CONTROL_SUFFIX) if settings.over_control else None
        control_session = judgements.latest(side, control) if control else None
        control_test = _test_of(control_session, confidence) if control_session else None
        figures = f"judged without labels: {contender.identity} over {champion_name} {test}"
        gains[contender] = test.gain
        tested.append(Tested(contender, figures, test, control_test))
    tested.sort(key=lambda one: -gains[one.contender])
    return replace(choose(tested, champion_name, settings), candidates=tries)


def present_models(project: Project, slug: str) -> dict[str, Side]:
    """Today's model of the base, of each candidate and of its control, where there is one."""
    candidates = project.config.candidates
    controls = [name + CONTROL_SUFFIX for name in candidates]
    present: dict[str, Side] = {}
    for method in (BASE_METHOD, *candidates, *controls):
        with suppress(InputError, CorruptArtifact):
            present[method] = present_model(project, slug, method)
    return present


def _test_of(session: Session, confidence: float) -> PairedTest:
    difference = session.difference(confidence)
    return PairedTest(
        gain=difference.estimate,
        low=difference.low,
        high=difference.high,
        p_value=difference.p_value,
        confidence=confidence,
        n=session.header.images,
        judged=len(session.entries),
    )
