"""The rule without labels: the choice of `judgement`, by confidence sequences instead of measured
results.

Does not belong here: judging pictures (`use.judge`), the sequences
(`evaluation.confidence_sequence`).
"""

from collections.abc import Collection
from dataclasses import replace

from react_pipeline.evaluation import Judgements, Session, Side, present_model
from react_pipeline.project import Project
from react_pipeline.promotion.judgement import Judgement, Tested, choose
from react_pipeline.promotion.verdicts import BASE, Contender, PairedTest
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

    Args:
        champion_name: How the reason names it.
        turned_down: Checkpoints that a person took back.
    """
    settings, slug = project.config.promotion, judgements.inputs.key
    present: dict[str, Side] = {}
    for method in (
        BASE,
        *settings.candidates,
        *(name + CONTROL_SUFFIX for name in settings.candidates),
    ):
        try:
            present[method] = present_model(project, slug, method)
        except (InputError, CorruptArtifact):
            continue
    is_base = champion.method == BASE
    holder = (
        present.get(BASE)
        if is_base
        else Side(method=champion.method, checkpoint=champion.checkpoint)
    )
    if holder is None:
        return Judgement("incomparable", "no base to compare with; materialize `base_checkpoint`")
    rivals = [
        side
        for name in settings.candidates
        if (side := present.get(name)) is not None and side != holder
    ]
    rivals = [side for side in rivals if side.checkpoint not in turned_down]
    sessions = [
        one
        for one in judgements.sessions
        if one.header.against == holder and one.header.candidate in rivals
    ]
    if not sessions:
        way = f"no present candidate was judged against it (react-pipeline judge {slug} SOURCE)"
        return Judgement("nothing", f"{champion_name} stays: {way}")
    confidence = 1 - (1 - settings.confidence) / len(sessions)
    found: list[Tested] = []
    for side in rivals:
        if (session := judgements.latest(side, holder)) is None:
            continue
        contender = Contender(
            **side.model_dump(),
            result=judgements.inputs.fingerprint,
            stage="judgements",
            n=session.header.images,
        )
        name, test = contender.name_next_to(champion), _test_of(session, confidence)
        control = present.get(side.method + CONTROL_SUFFIX) if settings.over_control else None
        beside = judgements.latest(side, control) if control else None
        control_test = _test_of(beside, confidence) if beside else None
        figures = f"judged without labels: {name} over {champion_name} {test}"
        found.append(Tested(contender, name, figures, test, control_test))
    found.sort(key=lambda one: -one.test.gain if one.test else 0.0)
    return replace(choose(found, champion_name, settings), candidates=len(sessions))


def _test_of(session: Session, confidence: float) -> PairedTest:
    found, images = session.difference(confidence), session.header.images
    figures = {
        "gain": found.estimate,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
    }
    return PairedTest(**figures, confidence=confidence, n=images, judged=len(session.entries))
