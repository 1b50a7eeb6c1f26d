"""Ranking: which candidates are kept, and why the others are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.retrieval import DOMAIN, NOTHING, Seen, hits_of

from react_pipeline.retrieval.decontamination import EvaluationImages
from react_pipeline.retrieval.fusion import fuse
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, choose, classes_of
from react_pipeline.settings.retrieval import RetrievalConfig


def candidates_of(
    hits: pd.DataFrame,
    config: RetrievalConfig,
    evaluation: EvaluationImages = NOTHING,
    images: Seen | None = None,
) -> pd.DataFrame:
    candidates = fuse(hits, config)
    candidates["image_sha256"] = [f"image {row // 10}" for row in candidates["row"]]
    choose(candidates, images or Seen(), evaluation, config)  # type: ignore[arg-type]
    return candidates


def test_a_row_of_several_classes_goes_to_the_most_similar() -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2t", "dog", 10, 0.6, 0), ("t2t", "eel", 10, 0.6, 0)
    )
    candidates = candidates_of(hits, RetrievalConfig()).set_index("class")
    assert candidates["dropped"].to_dict() == {
        "dog": "",
        "cat": "several_classes",
        "eel": "several_classes",
    }


def test_modes_are_never_compared_by_similarity() -> None:
    hits = hits_of(("t2t", "cat", 10, 0.2, 5), ("t2i", "dog", 10, 0.9, 0))
    assert candidates_of(hits, RetrievalConfig()).set_index("class")["dropped"].to_dict() == {
        "cat": "",
        "dog": "several_classes",
    }


def test_equal_images_are_kept_once_within_and_across_classes() -> None:
    hits = hits_of(
        ("t2t", "cat", 11, 0.5, 1), ("t2t", "cat", 12, 0.6, 0), ("t2t", "dog", 13, 0.7, 0)
    )
    candidates = candidates_of(hits, RetrievalConfig()).set_index("row")
    assert candidates["dropped"].to_dict() == {13: "", 12: "exact_duplicate", 11: "exact_duplicate"}


def test_evaluation_images_are_dropped_by_hash_and_vector() -> None:
    evaluation = EvaluationImages(frozenset({"image 3"}), np.eye(2, dtype=np.float32), 0.9)
    hits = hits_of(
        ("t2t", "cat", 30, 0.5, 1), ("t2t", "cat", 77, 0.6, 0), ("t2t", "cat", 50, 0.1, 2)
    )
    vectors = np.tile(np.float32([0.1, 0]), (80, 1))
    vectors[77] = 0.95, 0
    candidates = candidates_of(hits, RetrievalConfig(), evaluation, Seen(vectors))
    assert candidates.set_index("row")["dropped"].to_dict() == {
        30: "evaluation_image_hash",
        77: "evaluation_image_near",
        50: "",
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["t2t", "t2i"]),
            st.sampled_from(["cat", "dog", "hound", "eel"]),
            st.integers(0, 60),
            st.sampled_from([0.1, 0.2, 0.3]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_candidate_is_kept_or_dropped_exactly_once(hits, random) -> None:  # type: ignore[no-untyped-def]
    config = RetrievalConfig(max_per_class=3, k_per_prompt=5, min_similarity={"t2i": 0.15})
    evaluation = EvaluationImages(frozenset({"image 2"}), np.eye(2, dtype=np.float32), 0.9)
    table = hits_of(*hits)
    candidates = candidates_of(table, config, evaluation)
    assert candidates["dropped"].isin(("", SHARED, *DROP_REASONS)).all()
    kept = candidates[candidates["dropped"] == ""]
    assert not kept["row"].duplicated().any()
    assert not kept["image_sha256"].duplicated().any()
    assert kept.groupby("class_id").size().le(3).all()
    random.shuffle(hits)
    shuffled = candidates_of(hits_of(*hits), config, evaluation)
    columns = ["row", "class", "similarity", "dropped"]
    pd.testing.assert_frame_equal(candidates[columns], shuffled[columns])


def dropped(candidates: pd.DataFrame, name: str | None = None) -> dict[int, str]:
    chosen = candidates if name is None else candidates[candidates["class"] == name]
    return chosen.set_index("row")["dropped"].to_dict()


def test_a_pair_of_several_classes_names_its_own_first() -> None:
    hits = hits_of(
        *[
            ("t2t", "eel", 10, 0.7, 0),
            ("t2t", "cat", 10, 0.5, 0),
            ("t2t", "dog", 10, 0.6, 0),
            ("t2t", "cat", 20, 0.9, 0),
        ],
        ("t2t", "dog", 20, 0.3, 5),
    )
    candidates = candidates_of(hits, RetrievalConfig(min_similarity={"t2t": 0.4}))
    assert classes_of(candidates, DOMAIN.class_names).to_dict() == {
        10: ["eel", "dog", "cat"],
        20: ["cat"],
    }


def test_a_row_that_is_dropped_counts_once_and_has_no_classes() -> None:
    evaluation = EvaluationImages(frozenset({"image 1"}), np.eye(2, dtype=np.float32), 0.9)
    hits = hits_of(("t2t", "cat", 10, 0.5, 0), ("t2t", "dog", 10, 0.6, 0))
    candidates = candidates_of(hits, RetrievalConfig(), evaluation)
    assert dropped(candidates, "dog") == {10: "evaluation_image_hash"} and dropped(
        candidates, "cat"
    ) == {10: SHARED}
    assert classes_of(candidates, DOMAIN.class_names).empty


def near(degrees: dict[int, float], failed: frozenset[int] | None = None) -> Seen:
    """Rows as directions in a plane, alike up to 25 degrees."""
    vectors = np.zeros((max(degrees) + 1, 2), np.float32)
    for row, angle in degrees.items():
        vectors[row] = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return Seen(vectors, failed)


ALIKE = 0.9


def test_a_gap_of_a_duplicate_or_failure_is_filled_by_the_next() -> None:
    hits = hits_of(
        *[("t2t", "cat", 10 * number, 1 - number / 10, number) for number in range(1, 6)]
    )
    angles = near({10: 20, 20: 20, 30: 30, 40: 90, 50: 90}, frozenset({10}))
    config = RetrievalConfig(max_per_class=2, duplicate_similarity=ALIKE)
    candidates = candidates_of(hits, config, images=angles)
    assert dropped(candidates) == {
        10: "not_collected",
        20: "",
        30: "near_duplicate",
        40: "",
        50: "cap",
    }


def test_a_cap_loses_a_pair_of_another_class_too() -> None:
    hits = hits_of(
        *[
            ("t2t", "cat", 10, 0.9, 0),
            ("t2t", "cat", 20, 0.8, 1),
            ("t2t", "dog", 20, 0.7, 0),
            ("t2t", "eel", 10, 0.5, 0),
        ]
    )
    best = candidates_of(hits, RetrievalConfig(max_per_class=1))
    assert dropped(best, "cat") == {10: "", 20: "cap"} and dropped(best, "dog") == {20: SHARED}


def test_a_total_takes_from_the_largest_classes_first() -> None:
    hits = hits_of(
        *[("t2t", "cat", 10 * number, 1 - number / 100, number) for number in range(1, 7)],
        *[("t2t", "dog", 1000 + 10 * number, 0.5, number) for number in range(2)],
        ("t2t", "eel", 2000, 0.1, 0),
    )
    candidates = candidates_of(hits, RetrievalConfig(max_pairs=5))
    kept = candidates[candidates["dropped"] == ""]
    assert kept["class"].value_counts().to_dict() == {"cat": 2, "dog": 2, "eel": 1}
    assert kept.loc[kept["class"] == "cat", "row"].tolist() == [10, 20]
    assert (candidates["dropped"] == "total").sum() == 4


@pytest.mark.parametrize("identity", ["image_sha256", "url"])
def test_image_that_full_class_leaves_is_there_for_another_one(identity: str) -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.9, 0), ("t2t", "cat", 11, 0.8, 1), ("t2t", "dog", 12, 0.7, 0)
    )
    config = RetrievalConfig(max_per_class=1)
    candidates = fuse(hits, config).assign(image_sha256="")
    candidates[identity] = ["x", "y", "y"]
    choose(candidates, Seen(), NOTHING, config)  # type: ignore[arg-type]
    kept = candidates[candidates["dropped"] == ""]
    assert kept[["class", "row"]].values.tolist() == [["cat", 10], ["dog", 12]]
    assert dropped(candidates)[11] == "exact_duplicate"


def test_a_taken_image_is_dropped_again_by_bytes_or_url() -> None:
    hits = hits_of(
        *[("t2t", "cat", row, 1 - row / 10, row) for row in range(4)], ("t2t", "dog", 4, 0.1, 0)
    )
    config = RetrievalConfig()
    candidates = fuse(hits, config)
    candidates["image_sha256"] = ["a", "b", "", "a", ""]
    candidates["url"] = ["http://0", "http://1", "http://1", "http://3", "http://3"]
    choose(candidates, Seen(), NOTHING, config)  # type: ignore[arg-type]
    # 3 has the bytes of 0 and is not taken; so its URL is free, and without bytes nothing else is
    # known of 4.
    assert dropped(candidates) == {0: "", 1: "", 2: "exact_duplicate", 3: "exact_duplicate", 4: ""}


@pytest.mark.parametrize("near", [None, "all different"])
def test_rows_that_classes_want_equally_go_to_them_in_turns(near: str | None) -> None:
    rows = range(6)
    hits = hits_of(
        *[("t2t", name, row, 1 - row / 10, row) for row in rows for name in ("cat", "dog")]
    )
    candidates = fuse(hits, RetrievalConfig()).assign(image_sha256="")
    images = Seen(np.eye(6, dtype=np.float32) if near else None)
    config = RetrievalConfig(max_per_class=2, duplicate_similarity=ALIKE)
    choose(candidates, images, NOTHING, config)  # type: ignore[arg-type]
    kept = candidates[candidates["dropped"] == ""]
    assert {name: rows["row"].tolist() for name, rows in kept.groupby("class")} == {
        "cat": [0, 2],
        "dog": [1, 3],
    }
    assert set(classes_of(candidates, ["cat", "dog", "eel"]).map(tuple)) == {
        ("cat", "dog"),
        ("dog", "cat"),
    }


def test_rank_by_prompts_takes_first_hits_first() -> None:
    hits = hits_of(
        *[("t2t", "dog", row, 0.9 - row / 100, row) for row in range(3)],
        *[("t2t", "hound", 10 + row, 0.3 - row / 100, row) for row in range(3)],
    )
    config = RetrievalConfig(rank="prompts", max_per_class=4)
    kept = candidates_of(hits.assign(row=10 * hits["row"]), config).query("dropped == ''")
    assert (kept["row"] // 10).tolist() == [0, 10, 1, 11]
