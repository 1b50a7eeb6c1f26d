"""Guards alone: what stops a training, and what does not; how it ends then is in
`faults/test_training_guards`.
"""

from __future__ import annotations

import random
import re

import pytest

from react_pipeline.store.errors import TrainingError
from react_pipeline.training.guards import (
    MAX_SKIPPED_STEPS,
    collapsed,
    require_finite,
    require_no_collapse,
    require_steady_scale,
    require_steps_taken,
)

NAMES = tuple(f"r{rank}_{way}" for rank in (1, 5, 10) for way in ("image_to_text", "text_to_image"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stops_with_its_name_and_step(value: float) -> None:
    with pytest.raises(
        TrainingError, match=rf"gradient norm is {re.escape(str(value))} at step 17.*learning_rate"
    ):
        require_finite(17, "gradient norm", value)


def test_finite_values_pass_however_large() -> None:
    require_finite(17, "loss", 1e30)


@pytest.mark.parametrize(
    ("before", "after"), [(3.0, 3.6), (3.0, 2.4), (3.0, float("nan")), (3.0, float("inf"))]
)
def test_a_logit_scale_that_jumps_stops_with_its_step(before: float, after: float) -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        require_steady_scale(17, before, after)


@pytest.mark.parametrize("after", [3.0, 3.4, 2.6])
def test_a_logit_scale_that_moves_passes(after: float) -> None:
    require_steady_scale(17, 3.0, after)


def recalls(value: float, **others: float) -> dict[str, float]:
    return dict.fromkeys(NAMES, value) | others


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [(0.6, 0.1, 50), (0.05, 0.005, 2_000), (1.0, 0.0, 30), (1.0, 0.1, 30), (0.9, 0.4, 40)],
)
def test_a_collapse_stops_with_step_pairs_and_both_recalls(
    before: float, after: float, pairs: int
) -> None:
    text = (
        f"collapsed by step 17: r5_text_to_image of {pairs} held-out "
        f"pairs.*{before:.1%}.*{after:.1%}.*learning_rate"
    )
    with pytest.raises(TrainingError, match=text):
        require_no_collapse(17, recalls(before), recalls(before, r5_text_to_image=after), pairs)


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        (0.6, 0.35, 2_000),  # much worse, but more than half
        (0.3, 0.6, 2_000),
        (0.33, 0.0, 3),
        (1.0, 0.0, 2),  # half of all models find both of two pairs in one direction
        (0.4, 0.0, 5),
        (0.02, 0.005, 200),
        (0.0, 0.0, 200),
        (1.0, 1.0, 200),
    ],
)
def test_no_alarm(before: float, after: float, pairs: int) -> None:
    require_no_collapse(17, recalls(before), recalls(after), pairs)


def test_without_held_out_pairs_there_is_nothing_to_compare() -> None:
    require_no_collapse(17, {}, {}, 0)


@pytest.mark.parametrize(
    ("chance", "pairs"), [(0.5, 3), (0.3, 8), (0.1, 30), (0.02, 256), (0.9, 10)]
)
def test_chance_alone_raises_hardly_an_alarm(chance: float, pairs: int) -> None:
    """Two measurements of one and the same model, on other pairs each time."""
    draw = random.Random(0)  # noqa: S311 - no secrets
    alarms = 0
    for _ in range(2_000):
        before, after = (
            sum(draw.random() < chance for _ in range(pairs)) / pairs for _ in range(2)
        )
        try:
            require_no_collapse(0, {"r1": before}, {"r1": after}, pairs)
        except TrainingError:
            alarms += 1
    assert alarms <= 4


def test_few_pairs_cannot_show_a_collapse() -> None:
    strong, weak = (
        recalls(1.0),
        {name: {"r1": 0.1, "r5": 0.35}.get(name[:2], 0.6) for name in NAMES},
    )
    nothing = recalls(0.0)
    assert [collapsed(strong, nothing, pairs) is not None for pairs in (5, 6, 40)] == [
        False,
        True,
        True,
    ]
    assert [collapsed(weak, nothing, pairs) is not None for pairs in (5, 6, 40)] == [
        False,
        False,
        True,
    ]
    # What a collapsed model finds by the captions it cannot miss is no collapse.
    assert collapsed(strong, recalls(1.0), 40) is None


def test_a_scaler_may_skip_steps_but_not_forever() -> None:
    require_steps_taken(40, MAX_SKIPPED_STEPS)
    with pytest.raises(TrainingError, match="step 40.*bf16 or fp32"):
        require_steps_taken(40, MAX_SKIPPED_STEPS + 1)
