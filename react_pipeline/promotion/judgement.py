"""Judgement: whether a candidate's lead over the champion is more than noise, and the choice among
candidates.

Does not belong here: where results are found (`case`), what follows (`decision`). Shapes: N
images, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import pandas as pd

from react_pipeline.evaluation import (
    MUST_AGREE,
    EvalResult,
    correct_of,
    gains_of,
    paired_interval,
    sign_test,
)
from react_pipeline.promotion.verdicts import Contender, Decision, PairedTest
from react_pipeline.settings import PromotionConfig
from react_pipeline.store import Artifact, InputError, canonical_json


@dataclass(frozen=True)
class Measured:
    """A published result that has values. Judging reads its files; asking what is fresh does not,
    since it looks at every result again and again.
    """

    artifact: Artifact

    @classmethod
    def of(cls, artifact: Artifact) -> Self | None:
        """Read a published result; None if it has no values."""
        entry = cls(artifact)
        return None if entry.result.top1 is None else entry

    @cached_property
    def result(self) -> EvalResult:
        """Its figures."""
        return EvalResult.read(self.artifact)

    @cached_property
    def correct(self) -> pd.Series[Any]:
        """Whether the first rank is right, by image name (N,)."""
        return correct_of(self.artifact)

    @property
    def top1(self) -> float:
        """Fraction of the images that are named right."""
        return self.result.top1 or 0.0

    @property
    def measure(self) -> str:
        """What two results must share to be compared: images, evaluator, names of the classes and
        templates.
        """
        config = {
            name: value
            for name, value in self.artifact.manifest["config"].items()
            if name not in ("method", "protocol")
        }
        if "classes" in config:
            # Images are classified by the names; synonyms are searched with and measure nothing.
            config["classes"] = [entry["name"] for entry in config["classes"]]
        fields = self.result.model_dump(include={"evaluator_version", "evaluation_set_fingerprint"})
        return canonical_json({**fields, "config": config})

    @property
    def contender(self) -> Contender:
        """The model behind it."""
        return Contender(
            method=self.result.method,
            checkpoint=self.result.checkpoint_fingerprint,
            result=self.artifact.fingerprint,
            stage=self.artifact.stage,
            evaluation_set=self.result.evaluation_set_fingerprint,
            top1=self.result.top1,
            n=self.result.n,
        )


Seeds = Mapping[str, tuple[Measured | str, Measured | str | None]]
"""By name, the further seeds of a candidate: the result and that of its control, or why there is
none; None: it has no control."""


@dataclass(frozen=True)
class Tested:
    """A candidate after its tests.

    Attributes:
        name: How the reason names it.
        figures: What the test found, in words.
        control: The test against its own control, or why there can be none; None: it has no
            control.
        problem: Why it cannot be compared; empty if it can.
        objection: Why it may not become champion, whatever its tests say; empty if it may.
    """

    contender: Contender
    name: str
    figures: str = ""
    test: PairedTest | None = None
    control: PairedTest | str | None = None
    problem: str = ""
    objection: str = ""

    def outcome(self, settings: PromotionConfig, champion_name: str) -> tuple[Decision, str]:
        """What follows for this candidate alone, and why it may not become champion ("" if
        it may).
        """
        test = self.test
        if test is None or self.problem:
            return "incomparable", self.problem
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
        """Its row in the table of candidates."""
        row = {
            **self.contender.model_dump(include={"method", "checkpoint", "top1", "n"}),
            "status": status,
            "why": why,
        }
        if (test := self.test) is not None:
            row |= test.model_dump(include={"gain", "low", "high", "p_value", "confidence"})
            row["judged"] = test.judged or None
        if isinstance(control := self.control, PairedTest):
            row |= {
                "control_gain": control.gain,
                "control_low": control.low,
                "control_high": control.high,
            }
        return row


@dataclass(frozen=True)
class Judgement:
    """What was found: `rows` has one row a candidate; `challenger` is None if there is none to
    test.
    """

    decision: Decision
    reason: str
    rows: Sequence[dict[str, Any]] = ()
    challenger: Contender | None = None
    test: PairedTest | None = None
    control_test: PairedTest | None = None
    candidates: int = 0


def choose(
    candidates: Sequence[Tested], champion_name: str, settings: PromotionConfig
) -> Judgement:
    """Name the first of the candidates that passes its tests, else the first of all."""
    outcomes = [one.outcome(settings, champion_name) for one in candidates]
    rows = [one.row(*outcome) for one, outcome in zip(candidates, outcomes, strict=True)]
    for row in rows:
        row["status"] = "passed" if row["status"] == "promoted" else row["status"]
    place = next(
        (place for place, (decision, _) in enumerate(outcomes) if decision == "promoted"), 0
    )
    chosen = candidates[place]
    decision, why = outcomes[place]
    if decision == "promoted" and not settings.enabled:
        decision = "challenger"
        why = "`promotion.enabled` is false, so a person decides"
    rows[place]["status"] = decision
    text = chosen.figures or f"{chosen.name} cannot be compared with {champion_name}"
    control_test = chosen.control if isinstance(chosen.control, PairedTest) else None
    if control_test is not None:
        text += f"; over its control {control_test}"
    elif decision == "promoted" and settings.over_control:
        text += (
            "; its control was not "
            f"{'judged' if chosen.test and chosen.test.judged else 'evaluated'}"
        )
    ending = {"promoted": f"{chosen.name} becomes champion", "incomparable": "nothing moves"}
    text += f"; {ending.get(decision, f'{champion_name} stays')}" + (f": {why}" if why else "")
    return Judgement(
        decision, text, rows, chosen.contender, chosen.test, control_test, len(candidates)
    )


def judge(
    candidates: Mapping[str, Measured],
    champion: Measured | None,
    champion_name: str,
    controls: Mapping[str, Measured | str],
    settings: PromotionConfig,
    objections: Mapping[str, str] | None = None,
    seeds: Mapping[str, Seeds] | None = None,
) -> Judgement:
    """Test every candidate against the champion on the same images, and name the best.

    Choosing the best of K on the images that it is then tested with would favour it. So all K are
    tested, each at a confidence of 1 - (1 - confidence) / K (Bonferroni): the chance that any of K
    equal models passes stays as it is for one. Of those that pass, the one with the highest top-1
    is promoted; if none does, the one with the highest top-1 is the challenger. Equal ones keep
    their order.

    Args:
        candidates: By method, in the order of methods, without the champion itself.
        champion: The champion's result; None: there is none to compare with.
        champion_name: How the reason names it.
        controls: By the candidate's name: the control's result, or why an evaluated one cannot be
            used.
        objections: By checkpoint, why it may not become champion.
        seeds: By the candidate's name, those that must agree with it.
    """
    ordered = sorted(candidates.values(), key=lambda entry: -entry.top1)
    if not ordered:
        return Judgement("nothing", f"{champion_name} stays champion: there is no other candidate")
    confidence = 1 - (1 - settings.confidence) / len(ordered)
    tried = "" if len(ordered) == 1 else f", {len(ordered)} candidates tested at once"

    def tested(entry: Measured) -> Tested:
        contender = entry.contender
        objection = (objections or {}).get(contender.checkpoint, "")
        outcome = Tested(contender, contender.identity, objection=objection)
        if champion is None:
            return replace(outcome, problem=f"{champion_name} has no result to compare with")
        try:
            test = paired_test(entry, champion, confidence)
            figures = (
                f"{outcome.name} is right on {100 * entry.top1:.1f}% of {test.n} images, "
                f"{champion_name} on {100 * (entry.top1 - test.gain):.1f}%: {test}{tried}"
            )
            outcome = replace(outcome, figures=figures, test=test)
            control = controls.get(contender.method) if settings.over_control else None
            control_test = (
                paired_test(entry, control, confidence)
                if isinstance(control, Measured)
                else control
            )
            others = (seeds or {}).get(contender.method, {})
            disagreement = _disagreement(others, champion, confidence, settings.min_gain)
            return replace(outcome, control=control_test, objection=objection or disagreement)
        except InputError as error:
            return replace(outcome, problem=str(error))

    outcomes = [tested(entry) for entry in ordered]
    return choose(outcomes, champion_name, settings)


def _disagreement(seeds: Seeds, champion: Measured, confidence: float, min_gain: float) -> str:
    """Which other seed of a candidate does not pass its tests, and why; empty if all do."""
    for name, (result, control) in seeds.items():
        if isinstance(result, str):
            return f"{name} cannot be compared ({result})"
        if isinstance(control, str):
            return f"the control of {name} cannot be compared ({control})"
        for what, other in (("the champion", champion), ("its control", control)):
            test = None if other is None else paired_test(result, other, confidence)
            if test is not None and not test.exceeds(min_gain):
                return f"{name} does not agree: over {what} {test}"
    return ""


def paired_test(method: Measured, other: Measured, confidence: float) -> PairedTest:
    """Bootstrap over the images in pairs (10,000 resamples, fixed seed), and the exact test of
    McNemar.

    Where few images differ the bootstrap is overconfident (with 4 won and none lost, 98% of it are
    above 0, and a coin does the same in 6%): therefore the exact test in addition.

    Raises:
        InputError: If the two were not measured on the same images in the same way.
    """
    names = f"{method.contender.identity} and {other.contender.identity}"
    for field in MUST_AGREE:
        values = [getattr(entry.result, field) for entry in (method, other)]
        if values[0] != values[1]:
            raise InputError(
                f"{names} differ in {field} ({values[0]}, {values[1]}) and cannot be compared"
            )
    if method.measure != other.measure:
        raise InputError(f"{names} were measured with other classes or templates")
    if not method.correct.index.equals(other.correct.index):
        raise InputError(f"{names} were not measured on the same images")
    difference = method.correct.to_numpy(dtype=int) - other.correct.to_numpy(dtype=int)
    low, high = paired_interval(
        gains_of(method.correct.to_numpy(), other.correct.to_numpy()), confidence
    )
    return PairedTest(
        gain=float(difference.mean()),
        low=low,
        high=high,
        p_value=sign_test(difference),
        confidence=confidence,
        n=len(difference),
    )
