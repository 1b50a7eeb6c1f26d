"""The rule without labels: the choice of `promotion.judgement`, by confidence sequences instead of
measured results.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from react_pipeline.extensions.pages.judgements import Judgements, present_model
from react_pipeline.extensions.pages.session import Side
from react_pipeline.project import Project
from react_pipeline.promotion import (
    BASE_METHOD,
    Contender,
    Judgement,
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
    present = present_models(project, judgements.inputs.key)
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
        return _unjudged(judgements, holder, models, champion_name)
    confidence = 1 - (1 - settings.confidence) / tries
    tested: list[tuple[float, Tested]] = []
    for side in rivals:
        session = judgements.latest(side, holder)
        if session is None:
            continue
        test = session.test(confidence)
        contender = Contender(
            **side.model_dump(),
            result=judgements.inputs.fingerprint,
            stage="judgements",
            n=test.n,
        )
        control = present.get(side.method + CONTROL_SUFFIX) if settings.over_control else None
        over_control = judgements.latest(side, control) if control else None
        control_test = over_control.test(confidence) if over_control else None
        figures = f"judged without labels: {contender.identity} over {champion_name} {test}"
        tested.append((-test.gain, Tested(contender, figures, test, control_test)))
    best_first = [one for _, one in sorted(tested, key=lambda entry: entry[0])]
    return replace(choose(best_first, champion_name, settings), candidates=tries)


def _unjudged(
    judgements: Judgements, holder: Side, models: Collection[Side], champion_name: str
) -> Judgement:
    judged = {
        one.header.candidate.method
        for one in judgements.sessions
        if one.header.against == holder and one.header.candidate not in models
    }
    reason = "no present candidate was judged against it"
    if judged:
        names = ", ".join(sorted(judged))
        reason += f" (the judged model of {names} is out of date: build it, and judge it again)"
    way = f"react-pipeline judge {judgements.inputs.key} SOURCE"
    return Judgement("nothing", f"{champion_name} stays: {reason}: {way}")


def present_models(project: Project, slug: str) -> dict[str, Side]:
    """Return today's model of the base, of each candidate and of its control, where there is
    one.
    """
    candidates = project.config.candidates
    controls = [name + CONTROL_SUFFIX for name in candidates]
    present: dict[str, Side] = {}
    for method in (BASE_METHOD, *candidates, *controls):
        with suppress(InputError, CorruptArtifact):
            present[method] = present_model(project, slug, method)
    return present
