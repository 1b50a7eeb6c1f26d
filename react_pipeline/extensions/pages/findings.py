"""Findings: a comparison's numbers as sentences at the head of a page, with their uncertainty.

They follow from the table by fixed rules, so the same numbers always say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from react_pipeline.evaluation import (
    MEAN,
    Evidence,
    Finding,
    headline_method,
    interval_in_words,
    percent,
    points,
)

FEW_IMAGES = 1_000
"""Below it the interval of a difference is rarely narrower than two points."""


def find_in_domain(
    table: pd.DataFrame, evidence: Iterable[Evidence] = (), champion: str = ""
) -> Finding:
    """Return the finding of one domain's comparison: of the champion where it is measured, else of
    the headline method, or of `evidence` where nothing was measured.
    """
    rows = {row.method: row for row in table[table["top1"].notna()].itertuples()}
    if not rows:
        judged = [sentence for one in evidence if one.decides for sentence in one.sentences()]
        if judged:
            return Finding("", f"Judged without labels: {judged[0]}.", tuple(judged[1:]))
        return Finding("", "Nothing could be measured.", ("The table says why for each method.",))
    method = champion if champion in rows else headline_method(table)
    if not method:
        base = next(iter(rows.values()))
        text = (
            f"{base.method} names {percent(base.top1)}% of {base.n:,} images right; no customized "
        )
        advice = "Materialize `customized_checkpoint` and `domain_results` of a method."
        return Finding("", f"{text}model is measured.", (advice,))
    row = rows[method]
    headline = f"{method} names {percent(row.top1)}% of {row.n:,} images right"
    slug = row.domain
    use = f"Label pictures with it: react-pipeline predict {slug} FOLDER --model {method}"
    if pd.isna(row.delta_top1):
        text = f"{headline}; the base was not measured, so no gain is known."
        return Finding(method, text, (use, *_cautions(row, row.n)))
    base = percent(rows["base"].top1)
    headline += f", the base {base}%: {_difference(row, 'delta_top1', 'delta')}."
    details = use, _verdict(row), _of_control(row), *_cautions(row, row.n)
    return Finding(method, headline, details)


def find_over_domains(table: pd.DataFrame) -> Finding:
    """Return the finding over all domains; `table` holds the rows of domains and those of means."""
    means = table[table["domain"] == MEAN]
    domains = table[table["domain"] != MEAN]
    method = headline_method(means)
    if not method:
        measured = domains.loc[domains["top1"].notna(), "domain"].nunique()
        count = f"{measured} of {domains['domain'].nunique()} domains are measured"
        text = f"No customized model can be compared with the base; {count}."
        return Finding("", text, ("The table says why for each domain.",))
    mean = next(means[means["method"] == method].itertuples())
    change = "no gain is known"
    if not pd.isna(mean.delta_top1):
        change = f"{_difference(mean, 'delta_top1', 'delta')} on the base"
    each = domains[(domains["method"] == method) & domains["delta_low"].notna()]
    better = int((each["delta_low"] > 0).sum())
    worse = int((each["delta_high"] < 0).sum())
    details = (
        f"By domain: clearly better than the base in {better}, clearly worse in {worse}, no clear "
        f"difference in {len(each) - better - worse}.",
        "The interval of the mean is of these domains' images; it does not predict the gain on "
        "another domain.",
        _of_control(mean),
        *_cautions(mean, None),
    )
    text = f"{method} names {percent(mean.top1)}% right on average over {mean.status}: {change}."
    return Finding(method, text, details)


def _difference(row: Any, name: str, bounds: str) -> str:
    low, high = getattr(row, f"{bounds}_low"), getattr(row, f"{bounds}_high")
    return f"{points(getattr(row, name))} points ({interval_in_words(low, high)})"


def _of_control(row: Any) -> str:
    if pd.isna(row.gain_over_control):
        return (
            "No control (the same training on random pairs) is measured, so what retrieval adds "
            "is not known."
        )
    meaning = "there is no evidence that the retrieved pairs help"
    if row.gain_low > 0:
        meaning = "the retrieved pairs help, not the training alone"
    elif row.gain_high < 0:
        meaning = "random pairs work better here than the retrieved ones"
    gain = _difference(row, "gain_over_control", "gain")
    return f"Over its control, the same training on random pairs, it is {gain}: {meaning}."


def _verdict(row: Any) -> str:
    if row.delta_low > 0:
        return "The gain over the base is larger than the choice of images can explain."
    if row.delta_high < 0:
        return "The loss against the base is larger than the choice of images can explain."
    return "On these images the difference to the base could be chance."


def _cautions(row: Any, images: int | None) -> tuple[str, ...]:
    text = "Intervals cover the choice of images, not the training seed"
    seeds = getattr(row, "seeds", float("nan"))
    once = "each method was trained once."
    text += f": {once if pd.isna(seeds) else f'the table has the mean over {seeds:.0f} of them.'}"
    few = images is not None and images < FEW_IMAGES
    return (f"{text} With {images:,} images they are wide." if few else text,)
