"""Guards alone: what stops a training, and what does not; how it ends then is in
`faults/test_training`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch

from react_pipeline.clip import Clip
from react_pipeline.embedding import Encoder
from react_pipeline.store import ReactError, TrainingError
from react_pipeline.training import require_finite
from react_pipeline.training.guards import (
    explained_out_of_memory,
    require_no_collapse,
    require_steady_scale,
)

NAMES = tuple(f"r{rank}_{way}" for rank in (1, 5, 10) for way in ("image_to_text", "text_to_image"))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_stops_with_its_name_and_step(value: float) -> None:
    with pytest.raises(TrainingError, match=f"gradient norm is {value} at step 17.*learning_rate"):
        require_finite(17, "gradient norm", value)


@pytest.mark.parametrize(
    ("before", "after", "stops"),
    [(3.0, 3.4, False), (3.0, 2.6, False), (3.0, 3.6, True), (3.0, 2.4, True),
     (3.0, math.nan, True), (0.1, 0.0, True)],
)  # fmt: skip
def test_a_logit_scale_that_jumps_or_falls_to_1_stops(
    before: float, after: float, stops: bool
) -> None:
    refused = pytest.raises(TrainingError, match="exploded at step 17.*learning_rate")
    with refused if stops else nullcontext():
        require_steady_scale(17, before, after)


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [(0.6, 0.1, 50), (0.05, 0.005, 2_000), (1.0, 0.0, 6), (1.0, 0.1, 30), (0.9, 0.4, 40)],
)
def test_a_collapse_stops_with_step_pairs_and_both_recalls(
    before: float, after: float, pairs: int
) -> None:
    text = f"step 17: r5_text_to_image of {pairs} held-out pairs.*{before:.1%}.*{after:.1%}.*rate"
    recalls = dict.fromkeys(NAMES, before)
    with pytest.raises(TrainingError, match=text):
        require_no_collapse(17, recalls, recalls | {"r5_text_to_image": after}, pairs)


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        (0.6, 0.35, 2_000),  # much worse, but more than half
        (0.3, 0.6, 2_000),
        (1.0, 0.0, 2),  # half of all models find both of two pairs in one direction
        (0.02, 0.005, 200),
        (0.0, 0.0, 200),
        (1.0, 0.0, 5),  # few pairs cannot show a collapse
    ],
)
def test_no_alarm(before: float, after: float, pairs: int) -> None:
    require_no_collapse(17, dict.fromkeys(NAMES, before), dict.fromkeys(NAMES, after), pairs)
    require_no_collapse(17, {}, {}, 0)  # none is held out


def test_only_memory_that_ran_out_is_explained(clip: Clip) -> None:
    with pytest.raises(RuntimeError, match="^other$"), explained_out_of_memory("a", "b"):
        raise RuntimeError("other")
    with pytest.raises(RuntimeError, match="size") as caught:
        Encoder(clip, "fp32").images(torch.zeros(1, 3, 7, 7))
    assert not isinstance(caught.value, ReactError)
