"""Findings: a comparison's numbers as sentences at the head of a page, with their uncertainty.

They follow from the table by fixed rules, so the same numbers always say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from react_pipeline.evaluation import (
    EVIDENCE_DIFFERENCES,
    MEAN,
    Evidence,
    Finding,
    headline_method,
    interval_in_words,
    percent,
    points,
)
from react_pipeline.settings import CONTROL_SUFFIX, first_seed

FEW_IMAGES = 1_000
"""Below it the interval of a difference is rarely narrower than two points."""


def find_in_domain(table: pd.DataFrame, evidence: Iterable[Evidence] = ()) -> Finding:
    """The finding of one domain's comparison; of `evidence` where nothing was measured."""
    rows = {row.method: row for row in table[table["top1"].notna()].itertuples()}
    method = headline_method(table)
    if not rows:
        for one in evidence:
            if finding := one.finding(table):
                return finding
        return Finding("", "Nothing could be measured.", ("The table says why for each method.",))
    if not method:
        base = next(iter(rows.values()))
        text = (
            f"{base.method} names {percent(base.top1)}% of {base.n:,} images right; no customized "
            "model is measured."
        )
        return Finding(
            "", text, ("Materialize `customized_checkpoint` and `domain_results` of a method.",)
        )
    row = rows[method]
    right = f"{method} names {percent(row.top1)}% of {row.n:,} images right"
    if pd.isna(row.delta_top1):
        return Finding(
            method,
            f"{right}; the base was not measured, so no gain is known.",
            _cautions(row, row.n),
        )
    base = percent(rows["base"].top1)
    headline = (
        f"{right}, the base {base}%: {points(row.delta_top1)} points "
        f"({interval_in_words(row.delta_low, row.delta_high)})."
    )
    details = (
        _verdict(row.delta_low, row.delta_high),
        _of_control(row),
        *_of_another(table, method),
    )
    return Finding(method, headline, (*details, *_cautions(row, row.n)))


def find_over_domains(table: pd.DataFrame) -> Finding:
    """The finding over all domains; `table` holds the rows of domains and those of means."""
    means = table[table["domain"] == MEAN]
    domains = table[table["domain"] != MEAN]
    method = headline_method(means)
    measured = domains.loc[domains["top1"].notna(), "domain"].nunique()
    total = domains["domain"].nunique()
    if not method:
        others = domains.loc[
            domains[[*EVIDENCE_DIFFERENCES]].notna().any(axis=1), "domain"
        ].nunique()
        also = f"; {others} have other evidence" if others else ""
        text = (
            f"No customized model can be compared with the base; {measured} of {total} domains "
            f"are measured{also}."
        )
        return Finding("", text, ("The table says why for each domain.",))
    mean = next(means[means["method"] == method].itertuples())
    sure = interval_in_words(mean.delta_low, mean.delta_high)
    change = (
        "no gain is known"
        if pd.isna(mean.delta_top1)
        else f"{points(mean.delta_top1)} points on the base ({sure})"
    )
    headline = (
        f"{method} names {percent(mean.top1)}% right on average over {mean.status}: {change}."
    )
    each = [
        row
        for row in domains[domains["method"] == method].itertuples()
        if not pd.isna(row.delta_low)
    ]
    better = sum(row.delta_low > 0 for row in each)
    worse = sum(row.delta_high < 0 for row in each)
    details = (
        f"By domain: clearly better than the base in {better}, clearly worse in {worse}, no clear "
        f"difference in {len(each) - better - worse}.",
        "The interval of the mean is of these domains' images; it does not predict the gain on "
        "another domain.",
    )
    return Finding(
        method,
        headline,
        (*details, _of_control(mean), *_of_another(means, method), *_cautions(mean, None)),
    )


def _of_control(row: object) -> str:
    gain, low, high = (
        getattr(row, name) for name in ("gain_over_control", "gain_low", "gain_high")
    )
    if pd.isna(gain):
        return (
            "No control (the same training on random pairs) is measured, so what retrieval adds "
            "is not known."
        )
    text = (
        f"Over its control, the same training on random pairs, it is {points(gain)} points "
        f"({interval_in_words(low, high)})"
    )
    if low > 0:
        return f"{text}: the retrieved pairs help, not the training alone."
    if high < 0:
        return f"{text}: random pairs work better here than the retrieved ones."
    return f"{text}: there is no evidence that the retrieved pairs help."


def _of_another(table: pd.DataFrame, method: str) -> tuple[str, ...]:
    """The trained method with the highest top-1, where it is another one, with a caution: it was
    picked afterwards.
    """
    trained = table[
        table["top1"].notna()
        & ~table["method"].str.endswith(CONTROL_SUFFIX)
        & (table["method"] != "base")
        & (table["method"].map(first_seed) == table["method"])
    ]
    best = next(trained.sort_values("top1", ascending=False, kind="stable").itertuples())
    if best.method == method:
        return ()
    covers = "" if best.status == "ok" else f" over {best.status}"
    text = f"The highest top-1 is that of {best.method}: {percent(best.top1)}%{covers}"
    if not pd.isna(best.delta_top1):
        text += (
            f", {points(best.delta_top1)} points on the base "
            f"({interval_in_words(best.delta_low, best.delta_high)})"
        )
    return (f"{text}. It was picked after the fact, so part of its lead may be luck.",)


def _of_seeds(row: Any) -> str:
    means = {
        "top-1": ("top1", percent),
        "over the base": ("delta_top1", points),
        "over the control": ("gain_over_control", points),
    }
    parts = [
        f"{words} {text(value)} ± {percent(getattr(row, f'{name}_std'))}"
        for words, (name, text) in means.items()
        if not pd.isna(value := getattr(row, f"{name}_mean"))
    ]
    return f"Mean and standard deviation over {row.seeds:.0f} seeds, in points: {', '.join(parts)}."


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "The gain over the base is larger than the choice of images can explain."
    if high < 0:
        return "The loss against the base is larger than the choice of images can explain."
    return "On these images the difference to the base could be chance."


def _cautions(row: Any, images: int | None) -> tuple[str, ...]:
    text = "Intervals cover the choice of images, not the training seed"
    once = pd.isna(getattr(row, "seeds", None))
    text += ": each method was trained once." if once else f". {_of_seeds(row)}"
    few = images is not None and images < FEW_IMAGES
    return (f"{text} With {images:,} images they are wide." if few else text,)
