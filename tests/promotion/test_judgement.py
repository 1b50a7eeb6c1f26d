"""Judgement: the paired test is right about noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from react_pipeline.evaluation import EvalResult
from react_pipeline.promotion import Measured, PairedTest
from react_pipeline.promotion.judgement import judge, paired_test
from react_pipeline.settings import PromotionConfig, trained_methods
from react_pipeline.store import Artifact

SETTINGS = PromotionConfig()


def measured(method: str, correct: np.ndarray, *, images: int = 0, **config: object) -> Measured:
    result = EvalResult(
        dataset="d",
        domain="d",
        method=method,
        evaluator_version="1",
        checkpoint_fingerprint=method,
        evaluation_set_fingerprint="e",
        n_classes=2,
        top1=correct.mean(),
        n=len(correct),
    )
    config |= {"method": method}
    manifest = {"stage": "domain_results", "fingerprint": method, "config": config}
    index = pd.RangeIndex(images, images + len(correct))
    entry = Measured(Artifact(Path(method), manifest))
    vars(entry).update(result=result, correct=pd.Series(correct, index=index))
    return entry


def random_methods(seed: int, accuracies: list[float], images: int = 300) -> list[np.ndarray]:
    """Methods that agree on most images, as trainings of one base do."""
    chance = np.random.default_rng(seed)
    shared = chance.random(images)
    return [
        np.where(chance.random(images) < 0.15, chance.random(images), shared) < share
        for share in accuracies
    ]


def test_the_interval_is_a_bootstrap_and_the_test_a_coin() -> None:
    first, second = random_methods(1, [0.6, 0.5])
    test = paired_test(measured("full", first), measured("base", second), 0.9)
    assert isinstance(test, PairedTest)
    difference = first.astype(int) - second.astype(int)
    by_hand = [np.random.default_rng(seed).choice(difference, 300).mean() for seed in range(4_000)]
    np.testing.assert_allclose((test.low, test.high), np.percentile(by_hand, [5, 95]), atol=0.008)
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    exact = sum(math.comb(won + lost, heads) for heads in range(won, won + lost + 1)) / 2 ** (
        won + lost
    )
    assert test.p_value == pytest.approx(exact, rel=1e-9)


@pytest.mark.slow
def test_methods_of_equal_accuracy_are_hardly_ever_promoted() -> None:
    promoted = 0
    for seed in range(150):
        base, *others = random_methods(seed, [0.5] * 6)
        candidates = [
            (measured(method, correct), None, "")
            for method, correct in zip(trained_methods()[:5], others, strict=True)
        ]
        found = judge(candidates, measured("base", base), "base", SETTINGS)
        promoted += found.decision == "promoted"
    # 2.5% are expected at most, that is 3.75; 7 is almost two standard deviations above.
    assert promoted <= 7


@pytest.mark.parametrize(("won", "enough"), [(4, False), (5, False), (6, True)])
def test_where_few_images_differ_the_exact_test_decides(won: int, enough: bool) -> None:
    # Of 4 images won and none lost, 98% of the resamples hold one or more; a coin does it one time
    # in 16.
    base = np.zeros(100, dtype=bool)
    better = base.copy()
    better[:won] = True
    test = paired_test(measured("full", better), measured("base", base), 0.95)
    assert isinstance(test, PairedTest)
    assert test.low > 0 or won < 4
    assert test.exceeds(0.0) is enough


CLASSES = [{"name": "jeans", "synonyms": []}, {"name": "necktie", "synonyms": []}]


@pytest.mark.parametrize(
    ("word", "images", "change"),
    [
        ("the same images", 1, {}),
        ("templates", 0, {"templates": "imagenet"}),
        ("classes", 0, {"classes": [{"name": "pants", "synonyms": []}, CLASSES[1]]}),
        ("", 0, {"classes": [{"name": "jeans", "synonyms": ["pants"]}, CLASSES[1]]}),
    ],
)
def test_other_images_names_or_templates_are_not_compared(
    word: str, images: int, change: dict[str, Any]
) -> None:
    correct, config = np.ones(10, dtype=bool), {"classes": CLASSES, "templates": "simple"}
    other = measured("full", correct, images=images, **config | change)
    found = paired_test(other, measured("base", correct, **config), 0.95)
    assert word in str(found) and isinstance(found, PairedTest) is not bool(word)
