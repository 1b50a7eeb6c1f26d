"""Near duplicates: a row is refused only for one that was taken before it, and little is compared
to know that.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.retrieval import NOTHING, Seen

from react_pipeline.retrieval import ranking
from react_pipeline.settings.retrieval import RetrievalConfig

WIDTH = 16
Vectors = NDArray[np.float32]


def clusters(rng: np.random.Generator, rows: int, centres: int) -> Vectors:
    """Unit vectors of 16 times +-0.25, each a centre with a few signs changed: every cosine is
    exact in float32.
    """
    signs = rng.choice([-1, 1], (centres, WIDTH))[rng.integers(centres, size=rows)]
    return (0.25 * np.where(rng.random((rows, WIDTH)) < 0.06, -signs, signs)).astype(np.float32)


def candidates_of(class_ids: list[int], rows: list[int]) -> pd.DataFrame:
    """Candidates, the best first."""
    table = pd.DataFrame({"class_id": class_ids, "row": rows, "dropped": ""}).drop_duplicates(
        ignore_index=True
    )
    similarity = np.linspace(1, 0, len(table))
    return table.assign(similarity=similarity, image_sha256="")


def choose(table: pd.DataFrame, images: Seen, config: RetrievalConfig) -> None:
    table["dropped"] = table["image_sha256"] = ""
    ranking.choose(table, images, NOTHING, config)  # type: ignore[arg-type]


def plain(
    table: pd.DataFrame,
    vectors: Vectors,
    config: RetrievalConfig,
    failed: frozenset[int] = frozenset(),
) -> list[int]:
    """Which rows are taken, by comparing each with each in the order in which they are
    asked about.
    """
    alike = vectors @ vectors.T >= config.duplicate_similarity
    table = table[~table["row"].isin(failed)]
    kept: dict[int, list[int]] = {class_id: [] for class_id in sorted(set(table["class_id"]))}
    taken: list[int] = []

    def take(class_id: int, row: int) -> bool:
        free = (
            row not in taken
            and len(kept[class_id]) < config.max_per_class
            and not alike[row, taken].any()
        )
        if free:
            taken.append(row)
            kept[class_id].append(row)
        return free

    for class_id, row in table.drop_duplicates("row")[["class_id", "row"]].itertuples(index=False):
        take(class_id, row)
    return sorted(taken)


def taken_of(table: pd.DataFrame) -> list[int]:
    return sorted(table.loc[table["dropped"] == "", "row"].tolist())


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 0.75, 1.0]),
    st.sampled_from([1, 3, 1_024]),
)
@settings(max_examples=40, deadline=None)
def test_chosen_pairs_equal_a_comparison_of_all_pairs(
    seed: int, similarity: float, block: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = clusters(rng, 90, int(rng.integers(1, 30)))
    table = candidates_of(rng.integers(0, 4, 150).tolist(), rng.integers(0, 90, 150).tolist())
    cap = int(rng.integers(1, 30))
    config = RetrievalConfig(max_per_class=cap, duplicate_similarity=similarity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_ROWS", block)
        patch.setattr(ranking, "REFILL_ROUNDS", 99)
        for count in (0, 5, 20, 3, 0):
            failed = frozenset(rng.choice(90, count, replace=False).tolist())
            choose(table, Seen(vectors, failed), config)
            assert taken_of(table) == plain(table, vectors, config, failed)


def test_a_class_of_look_alikes_is_read_only_a_few_times() -> None:
    rows = 4_000
    vectors = np.zeros((rows, WIDTH), np.float32)
    vectors[:, 0] = 1
    vectors[::1_000] = np.eye(WIDTH, dtype=np.float32)[1:5]
    images = Seen(vectors)
    table = candidates_of([0] * rows, list(range(rows)))
    choose(table, images, RetrievalConfig(max_per_class=50, duplicate_similarity=0.95))
    assert taken_of(table) == [0, 1, 1_000, 2_000, 3_000]
    assert (table["dropped"] == "near_duplicate").sum() == rows - 5
    assert len(images.looks) <= 10


def test_what_is_left_when_a_class_has_enough_is_not_looked_at() -> None:
    images = Seen(np.eye(2_000, dtype=np.float32))
    table = candidates_of([0] * 2_000, list(range(2_000)))
    choose(table, images, RetrievalConfig(max_per_class=100, duplicate_similarity=0.9))
    assert images.looks == [list(range(100))]
    assert (table["dropped"] == "cap").sum() == 1_900


def test_the_first_of_two_look_alikes_stays() -> None:
    angles = np.deg2rad([0, 20, 40, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = candidates_of([0, 1, 0, 1], [2, 1, 0, 3])
    choose(table, Seen(vectors), RetrievalConfig(duplicate_similarity=0.9))
    assert table.set_index("row")["dropped"].to_dict() == {
        2: "",
        1: "near_duplicate",
        0: "",
        3: "near_duplicate",
    }
