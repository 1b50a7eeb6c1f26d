"""Fusion: the order of candidates that several modes found."""

from __future__ import annotations

import numpy as np
from support.retrieval import hits_of

from react_pipeline.retrieval.fusion import apply_filter, fuse
from react_pipeline.settings.retrieval import RetrievalConfig


def test_the_best_hit_of_a_row_keeps_prompt_mode_and_rank() -> None:
    hits = hits_of(
        ("t2i", "dog", 10, 0.9, 0), ("t2t", "dog", 10, 0.5, 3), ("t2t", "hound", 10, 0.6, 1)
    )
    (best,) = fuse(hits, RetrievalConfig()).to_dict("records")
    assert (best["prompt"], best["mode"], best["similarity"], best["rank"]) == (
        "a photo of a hound.",
        "t2t",
        0.6,
        1,
    )
    (best,) = fuse(hits, RetrievalConfig(modes=("t2i", "t2t"))).to_dict("records")
    assert (best["mode"], best["similarity"]) == ("t2i", 0.9)


def test_floor_is_modes_own_and_a_hit_above_it_goes_first() -> None:
    config = RetrievalConfig(min_similarity={"t2t": 0.55})
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2i", "cat", 10, 0.2, 0), ("t2t", "cat", 20, 0.5, 1)
    )
    best = fuse(hits, config).set_index("row")
    assert best.loc[10, "mode"] == "t2i"
    assert best["dropped"].to_dict() == {10: "", 20: "below_similarity"}


def test_a_floor_of_likeness_alone_keeps_the_order() -> None:
    config = RetrievalConfig(min_similarity={"filter": 0.2})
    hits = hits_of(("t2t", "cat", 1, 0.9, 0), ("t2t", "cat", 2, 0.8, 1), ("t2t", "cat", 3, 0.4, 2))
    likeness = np.array([0.3, 0.1, 0.9], np.float32)
    filtered = apply_filter(fuse(hits, config), likeness, config)
    assert filtered["row"].tolist() == [1, 2, 3]
    assert filtered["dropped"].tolist() == ["", "below_filter", ""]


def test_the_filter_orders_by_likeness_and_drops_the_unlike() -> None:
    config = RetrievalConfig(fusion="filter", min_similarity={"t2t": 0.5, "filter": 0.2})
    hits = hits_of(
        *[
            ("t2t", "cat", 1, 0.9, 0),
            ("t2t", "cat", 2, 0.8, 1),
            ("t2t", "cat", 3, 0.4, 2),
            ("t2i", "cat", 4, 0.3, 0),
        ]
    )
    found = fuse(hits, config)
    likeness = found["row"].map({1: 0.1, 2: 0.25, 3: 0.9, 4: 0.3}).to_numpy(np.float32)
    filtered = apply_filter(found, likeness, config)
    assert filtered["row"].tolist()[:2] == [4, 2]
    assert filtered.set_index("row")["dropped"].to_dict() == {
        4: "",
        2: "",
        3: "below_similarity",
        1: "below_filter",
    }
