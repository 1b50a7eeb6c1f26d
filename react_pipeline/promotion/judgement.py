"""Judgement: whether a candidate's lead over the champion is more than noise, and the choice among
candidates.

Does not belong here: where results are found (`chain`), what follows (`decision`). Shapes: N
images, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from react_pipeline.evaluation import (
    MUST_AGREE,
    EvalResult,
    count_gains,
    interval_text,
    paired_interval,
    percent,
    points,
    read_correct,
    sign_test,
)
from react_pipeline.promotion.verdicts import By, Contender, Decision, PairedTest
from react_pipeline.settings import PromotionConfig
from react_pipeline.store import Artifact


@dataclass(frozen=True)
class Measured:
    """A published result that has values. Its files are read when it is judged, not when only its
    freshness is asked for.
    """

    artifact: Artifact

    @cached_property
    def result(self) -> EvalResult:
        """Its figures."""
        return EvalResult.read(self.artifact)

    @cached_property
    def correct(self) -> pd.Series[Any]:
        """Whether the first rank is right, by image name (N,)."""
        return read_correct(self.artifact)

    @property
    def top1(self) -> float:
        """Fraction of the images that are named right."""
        return self.result.top1 or 0.0

    @property
    def measure(self) -> dict[str, Any]:
        """What two results must share to be compared: images, evaluator, names of the classes and
        templates.
        """
        config = dict(self.artifact.manifest["config"])
        if "classes" in config:
            # Images are classified by the names; synonyms are searched with and measure nothing.
            config["classes"] = [entry["name"] for entry in config["classes"]]
        config |= {"method": "", "protocol": ""}
        return config | self.result.model_dump(include={*MUST_AGREE})

    @property
    def contender(self) -> Contender:
        """The model behind it."""
        return Contender(
            method=self.result.method,
            checkpoint=self.result.checkpoint_fingerprint,
            result=self.artifact.fingerprint,
            stage=self.artifact.stage,
            top1=self.result.top1,
            n=self.result.n,
        )


Other = Measured | str | None
"""Another result that counts for a candidate, or why there is none; None: it is not asked for."""


Candidate = tuple[Measured, Other, str]
"""A result, that of its control, and why it may not become champion whatever its tests say; empty
if it may.
"""


@dataclass(frozen=True)
class Tested:
    """A candidate after its tests.

    Attributes:
        figures: What the test found, in words.
        test: The test against the champion, or why it cannot be compared.
        control: The test against its own control, or why there can be none; None: it has no
            control.
        objection: Why it may not become champion, whatever its tests say; empty if it may.
    """

    contender: Contender
    figures: str
    test: PairedTest | str
    control: PairedTest | str | None = None
    objection: str = ""

    def outcome(self, settings: PromotionConfig, champion_name: str) -> tuple[Decision, str]:
        """Return what follows for this candidate alone, and why it may not become champion ("" if
        it may).
        """
        test = self.test
        if isinstance(test, str):
            return "incomparable", test
        if test.gain <= 0:
            return "kept", f"no more images are right than with {champion_name}"
        threshold = f"{100 * settings.min_gain:.1f} points" if settings.min_gain else "the noise"
        if not test.exceeds(settings.min_gain):
            noise = f"{'' if test.judged else 'exact test: '}p = {test.p_value:.3g}"
            return "challenger", f"the gain is not beyond {threshold} ({noise})"
        if isinstance(self.control, str):
            return "challenger", f"its control cannot be compared ({self.control})"
        if self.control is not None and not self.control.exceeds(settings.min_gain):
            return "challenger", f"the gain over random pairs is not beyond {threshold}"
        return ("challenger", self.objection) if self.objection else ("promoted", "")

    def row(self, status: str, why: str) -> dict[str, Any]:
        """Return its row in the table of candidates (`verdicts.TABLE`)."""
        one = self.contender
        row: dict[str, Any] = {"method": one.method, "status": status, "why": why}
        row |= {"top1": percent(one.top1), "n": one.n or None}
        if isinstance(test := self.test, PairedTest):
            row |= {"gain": points(test.gain), "interval": interval_text(test.low, test.high)}
            row |= {"n": test.n, "p_value": f"{test.p_value:.3g}"}
        if isinstance(control := self.control, PairedTest):
            bounds = interval_text(control.low, control.high)
            row["control"] = f"{points(control.gain)} ({bounds})"
        return row


@dataclass(frozen=True)
class Judgement:
    """What was found, and whose decision it is.

    Attributes:
        rows: One row a candidate.
        challenger: None if there is none to test.
        champion: None: the one there was.
    """

    decision: Decision
    reason: str
    rows: Sequence[dict[str, Any]] = ()
    challenger: Contender | None = None
    test: PairedTest | None = None
    candidates: int = 0
    champion: Contender | None = None
    by: By = "rule"
    person: str = ""


def choose(
    candidates: Sequence[Tested], champion_name: str, settings: PromotionConfig
) -> Judgement:
    """Name the first of the candidates that passes its tests, else the first of all."""
    outcomes = [one.outcome(settings, champion_name) for one in candidates]
    rows = [
        one.row("passed" if decision == "promoted" else decision, why)
        for one, (decision, why) in zip(candidates, outcomes, strict=True)
    ]
    passed = [place for place, (decision, _) in enumerate(outcomes) if decision == "promoted"]
    place = next(iter(passed), 0)
    chosen = candidates[place]
    decision, why = outcomes[place]
    if passed and not settings.enabled:
        decision = "challenger"
        why = "`promotion.enabled` is false, so a person decides"
    rows[place]["status"] = decision
    name = chosen.contender.identity
    text = chosen.figures or f"{name} cannot be compared with {champion_name}"
    test = chosen.test if isinstance(chosen.test, PairedTest) else None
    if isinstance(chosen.control, PairedTest):
        text += f"; over its control {chosen.control}"
    elif decision == "promoted" and settings.over_control:
        text += f"; its control was not {'judged' if test and test.judged else 'evaluated'}"
    ending = {"promoted": f"{name} becomes champion", "incomparable": "nothing moves"}
    text += f"; {ending.get(decision, f'{champion_name} stays')}" + (f": {why}" if why else "")
    return Judgement(decision, text, rows, chosen.contender, test, len(candidates))


def judge(
    candidates: Sequence[Candidate],
    champion: Measured | None,
    champion_name: str,
    settings: PromotionConfig,
) -> Judgement:
    """Test every candidate against the champion on the same images, and name the best.

    Choosing the best of K on the images that it is then tested with would favour it. So all K are
    tested, each at a confidence of 1 - (1 - confidence) / K (Bonferroni): the chance that any of K
    equal models passes stays as it is for one. Of those that pass, the one with the highest top-1
    is promoted; if none does, the one with the highest top-1 is the challenger. Equal ones keep
    their order.

    Args:
        candidates: In the order of methods, without the champion itself.
        champion: The champion's result; None: there is none to compare with.
        champion_name: How the reason names it.
    """
    if not candidates:
        return Judgement("nothing", f"{champion_name} stays champion: there is no other candidate")
    confidence = 1 - (1 - settings.confidence) / len(candidates)
    tried = "" if len(candidates) == 1 else f", {len(candidates)} candidates tested at once"

    def tested(entry: Measured, control: Other, objection: str) -> Tested:
        contender = entry.contender
        test = paired_test(entry, champion, confidence)
        if isinstance(test, str):
            return Tested(contender, "", test)
        figures = (
            f"{contender.identity} is right on {100 * entry.top1:.1f}% of {test.n} images, "
            f"{champion_name} on {100 * (entry.top1 - test.gain):.1f}%: {test}{tried}"
        )
        over_control = (
            paired_test(entry, control, confidence) if isinstance(control, Measured) else control
        )
        return Tested(contender, figures, test, over_control, objection)

    ordered = sorted(candidates, key=lambda one: -one[0].top1)
    return choose([tested(*one) for one in ordered], champion_name, settings)


def paired_test(method: Measured, other: Measured | None, confidence: float) -> PairedTest | str:
    """Bootstrap over the images in pairs (10,000 resamples, fixed seed), and the exact test of
    McNemar; or why the two cannot be compared: they were not measured on the same images in the
    same way.

    Where few images differ the bootstrap is overconfident (with 4 won and none lost, 98% of it are
    above 0, and a coin does the same in 6%): therefore the exact test in addition.
    """
    if other is None:
        return "the champion has no result to compare with"
    names = f"{method.contender.identity} and {other.contender.identity}"
    ours, theirs = method.measure, other.measure
    if apart := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
        return f"{names} differ in {', '.join(apart)} and cannot be compared"
    if not method.correct.index.equals(other.correct.index):
        return f"{names} were not measured on the same images"
    ours_right, theirs_right = method.correct.to_numpy(), other.correct.to_numpy()
    difference = ours_right.astype(int) - theirs_right.astype(int)
    low, high = paired_interval(count_gains(ours_right, theirs_right), confidence)
    return PairedTest(
        gain=float(difference.mean()),
        low=low,
        high=high,
        p_value=sign_test(difference),
        confidence=confidence,
        n=len(difference),
    )
