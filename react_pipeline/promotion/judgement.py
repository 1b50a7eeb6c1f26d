"""Judgement: whether a candidate's lead over the champion is more than noise.

Belongs here: the paired test and the choice among candidates, on results that are handed in. Does not belong here:
where results are found (`evidence`), what follows from a judgement (`decision`).
Shapes: N images, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd

from react_pipeline.evaluation import MUST_AGREE, EvalResult, correct_of, paired_interval
from react_pipeline.promotion.verdicts import Contender, Decision, PairedTest
from react_pipeline.settings import METHODS, PromotionConfig
from react_pipeline.store import Artifact, InputError, canonical_json


@dataclass(frozen=True)
class Measured:
    """A result as the test reads it."""

    artifact: Artifact
    result: EvalResult

    @cached_property
    def correct(self) -> pd.Series[Any]:
        """By image name, whether the first rank was right (N,). Only judging reads it, not asking what is fresh."""
        return correct_of(self.artifact)

    @classmethod
    def of(cls, artifact: Artifact) -> Self | None:
        """Read a published result; None if it has no values."""
        result = EvalResult.read(artifact)
        if result.top1 is None:
            return None
        return cls(artifact, result)

    @property
    def measure(self) -> str:
        """What two results must share to be compared: images, evaluator, names of the classes and templates."""
        config = {name: value for name, value in self.artifact.manifest["config"].items() if name != "method"}
        if "classes" in config:
            # Images are classified by the names; synonyms are searched with and measure nothing.
            config["classes"] = [entry["name"] for entry in config["classes"]]
        about = self.result.model_dump(include={"evaluator_version", "evaluation_set_fingerprint", "protocol"})
        return canonical_json({**about, "config": config})

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


@dataclass(frozen=True)
class Judgement:
    """What `judge` found: `rows` has one row a candidate; `challenger` is None if there is none to test."""

    decision: Decision
    reason: str
    rows: list[dict[str, Any]]
    challenger: Contender | None = None
    test: PairedTest | None = None
    control_test: PairedTest | None = None
    candidates: int = 0


def judge(
    candidates: Mapping[str, Measured],
    champion: Measured | None,
    champion_name: str,
    controls: Mapping[str, Measured | str],
    settings: PromotionConfig,
) -> Judgement:
    """Test every candidate against the champion on the same images, and name the best.

    Choosing the best of K on the images that it is then tested with would favour it. So all K are tested, each at a
    confidence of 1 - (1 - confidence) / K (Bonferroni): the chance that any of K equal models passes stays as it is
    for one. Of those that pass, the one with the highest top-1 is promoted; if none does, the one with the highest
    top-1 is the challenger. Equal ones keep the order of `METHODS`.

    Args:
        candidates: By method, without the champion itself.
        champion: The champion's result; None: there is none to compare with.
        champion_name: How the reason names it.
        controls: By the candidate's name: the control's result, or why an evaluated one cannot be used.
    """
    ordered = sorted(candidates.values(), key=lambda entry: (-_top1(entry), METHODS.index(entry.result.method)))
    if not ordered:
        return Judgement("nothing", f"{champion_name} stays champion: there is no other candidate", [])
    if champion is None:
        why = f"{champion_name} has no result to compare with"
        rows = [{**_row(entry, None, None), "status": "incomparable", "why": why} for entry in ordered]
        return Judgement("incomparable", f"{ordered[0].result.method}: {why}", rows, ordered[0].contender)
    confidence = 1 - (1 - settings.confidence) / len(ordered)
    found = [_test_one(entry, champion, champion_name, controls, settings, confidence) for entry in ordered]
    rows = [{**_row(one.entry, one.test, one.control_test), "status": one.decision, "why": one.why} for one in found]
    chosen = next((one for one in found if one.decision == "promoted"), found[0])
    decision, why = chosen.decision, chosen.why
    if decision == "promoted" and not settings.enabled:
        decision, why = "challenger", "`promotion.enabled` is false, so a person decides"
    for one, row in zip(found, rows, strict=True):
        row["status"] = decision if one is chosen else {"promoted": "passed"}.get(one.decision, one.decision)
    name = chosen.entry.contender.named_beside(champion.contender)
    if chosen.test is None:
        text = f"{name} cannot be compared with {champion_name}"
    else:
        text = _figures(chosen.entry, name, champion_name, chosen.test, len(found))
    if chosen.control_test is not None:
        text += f"; over its control {chosen.control_test}"
    elif decision == "promoted" and settings.over_control:
        text += "; its control was not evaluated"
    ending = {"promoted": f"{name} becomes champion", "incomparable": "nothing moves"}
    text += f"; {ending.get(decision, f'{champion_name} stays')}" + (f": {why}" if why else "")
    return Judgement(decision, text, rows, chosen.entry.contender, chosen.test, chosen.control_test, len(found))


@dataclass(frozen=True)
class _Tested:
    entry: Measured
    test: PairedTest | None
    control_test: PairedTest | None
    decision: Decision
    why: str


def _test_one(
    entry: Measured,
    champion: Measured,
    champion_name: str,
    controls: Mapping[str, Measured | str],
    settings: PromotionConfig,
    confidence: float,
) -> _Tested:
    test = control_test = None
    try:
        test = paired_test(entry, champion, confidence)
        control = controls.get(entry.result.method) if settings.over_control else None
        if isinstance(control, Measured):
            control_test = paired_test(entry, control, confidence)
    except InputError as error:
        return _Tested(entry, test, None, "incomparable", str(error))
    why = objection(test, control_test, control, settings, champion_name)
    return _Tested(entry, test, control_test, "promoted" if not why else "challenger" if test.gain > 0 else "kept", why)


def paired_test(method: Measured, other: Measured, confidence: float) -> PairedTest:
    """Bootstrap over the images in pairs (10,000 resamples, fixed seed), and the exact test of McNemar.

    Where few images differ the bootstrap is overconfident (with 4 won and none lost, 98% of it are above 0, and a
    coin does the same in 6%): therefore the exact test beside it.

    Raises:
        InputError: If the two were not measured on the same images in the same way.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped, unused-ignore]  # takes half a second

    names = f"{method.contender.identity} and {other.contender.identity}"
    for field in MUST_AGREE:
        values = [getattr(entry.result, field) for entry in (method, other)]
        if values[0] != values[1]:
            raise InputError(f"{names} differ in {field} ({values[0]}, {values[1]}) and cannot be compared")
    if method.measure != other.measure:
        raise InputError(f"{names} were measured with other classes or templates")
    if not method.correct.index.equals(other.correct.index):
        raise InputError(f"{names} were not measured on the same images")
    difference = method.correct.to_numpy(dtype=int) - other.correct.to_numpy(dtype=int)
    count = len(difference)
    won, lost = int((difference == 1).sum()), int((difference == -1).sum())
    low, high = paired_interval(method.correct.to_numpy(), other.correct.to_numpy(), confidence)
    return PairedTest(
        gain=(won - lost) / count,
        low=low,
        high=high,
        p_value=float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0,
        confidence=confidence,
        n=count,
    )


def objection(
    test: PairedTest,
    control_test: PairedTest | None,
    control: Measured | str | None,
    settings: PromotionConfig,
    champion_name: str,
) -> str:
    """Why a candidate may not become champion; empty if it may."""
    if test.gain <= 0:
        return f"no more images are right than with {champion_name}"
    noise = f"p = {test.p_value:.3g}" if test.judged else f"exact test: p = {test.p_value:.3g}"
    if not test.exceeds(settings.min_gain):
        wanted = f"{100 * settings.min_gain:.1f} points" if settings.min_gain else "the noise"
        return f"the gain is not beyond {wanted} ({noise})"
    if isinstance(control, str):
        return f"its control cannot be compared ({control})"
    if control_test is not None and not control_test.exceeds(settings.min_gain):
        return "its control, trained on random pairs, does as well within the noise"
    return ""


def _row(entry: Measured, test: PairedTest | None, control_test: PairedTest | None) -> dict[str, Any]:
    row: dict[str, Any] = {"method": entry.result.method, "top1": entry.result.top1, "n": entry.result.n}
    if test is not None:
        row |= test.model_dump(include={"gain", "low", "high", "p_value", "confidence"})
    if control_test is not None:
        row |= {"control_gain": control_test.gain, "control_low": control_test.low, "control_high": control_test.high}
    return row | {"checkpoint": entry.result.checkpoint_fingerprint}


def _figures(entry: Measured, name: str, champion_name: str, test: PairedTest, count: int) -> str:
    tested = "" if count == 1 else f", {count} candidates tested at once"
    return (
        f"{name} is right on {100 * _top1(entry):.1f}% of {test.n} images, {champion_name} on "
        f"{100 * (_top1(entry) - test.gain):.1f}%: {test}{tested}"
    )


def _top1(entry: Measured) -> float:
    return entry.result.top1 or 0.0
