"""Near duplicates: a row is refused only for one that was taken before it, and little is compared
to know that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.retrieval import NOTHING

from react_pipeline.extensions.near_duplicates import near_duplicates
from react_pipeline.extensions.near_duplicates.near_duplicates import NearDuplicates
from react_pipeline.retrieval.ranking import mark_drops
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
    return table.assign(similarity=similarity, image_sha256="", evaluation_similarity=np.nan)


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

    if config.balance == "best":
        for class_id, row in table.drop_duplicates("row")[["class_id", "row"]].itertuples(
            index=False
        ):
            take(class_id, row)
        return sorted(taken)
    waiting = dict(kept)
    while waiting:
        class_id = min(waiting, key=lambda name: (len(kept[name]), name))
        if not any(
            take(class_id, row) for row in table.loc[table["class_id"] == class_id, "row"].tolist()
        ):
            del waiting[class_id]
    return sorted(taken)


def taken_of(table: pd.DataFrame) -> list[int]:
    return sorted(table.loc[table["dropped"] == "", "row"].tolist())


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["best", "even"]),
    st.sampled_from([0.5, 0.75, 1.0]),
    st.sampled_from([(1, 1, 2, 1), (3, 5, 7, 4), (3, 5, 7, 10**6), (1_024, 8_192, 512, 1)]),
)
@settings(max_examples=40, deadline=None)
def test_chosen_pairs_equal_a_comparison_of_all_pairs(
    seed: int, balance: Any, similarity: float, sizes: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(seed)
    vectors = clusters(rng, 90, int(rng.integers(1, 30)))
    table = candidates_of(rng.integers(0, 4, 150).tolist(), rng.integers(0, 90, 150).tolist())
    cap = int(rng.integers(1, 30))
    config = RetrievalConfig(max_per_class=cap, balance=balance, duplicate_similarity=similarity)
    near = NearDuplicates(vectors.__getitem__, similarity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("react_pipeline.retrieval.ranking.BLOCK_ROWS", sizes[0])
        patch.setattr(near_duplicates, "CHUNK_ROWS", sizes[1])
        patch.setattr(near_duplicates, "LAG_ROWS", sizes[2])
        patch.setattr(near_duplicates, "SEARCHED_ROWS", sizes[3])
        patch.setattr(near_duplicates, "MAX_HITS", float(rng.integers(2)))
        for count in (0, 5, 20, 3, 0):
            failed = frozenset(rng.choice(90, count, replace=False).tolist())
            mark_drops(table, NOTHING, config, failed=failed, near=near)
            assert taken_of(table) == plain(table, vectors, config, failed)


@pytest.mark.parametrize("balance", ["best", "even"])
def test_a_class_of_look_alikes_is_read_only_a_few_times(
    balance: Any,
) -> None:
    rows = 4_000
    vectors = np.zeros((rows, WIDTH), np.float32)
    vectors[:, 0] = 1
    vectors[::1_000] = np.eye(WIDTH, dtype=np.float32)[1:5]
    near = NearDuplicates(vectors.__getitem__, 0.95)
    table = candidates_of([0] * rows, list(range(rows)))
    mark_drops(table, NOTHING, RetrievalConfig(max_per_class=50, balance=balance), near=near)
    assert taken_of(table) == [0, 1, 1_000, 2_000, 3_000]
    assert (table["dropped"] == "near_duplicate").sum() == rows - 5
    assert near.looks <= 10
    assert near.cosines <= 5 * rows


def test_many_taken_rows_are_searched_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "SEARCHED_ROWS", 500)
    rng = np.random.default_rng(0)
    # Near a subspace, as vectors of real images are; every third row is nearly the one before it.
    vectors = rng.standard_normal((3_000, 24)) @ rng.standard_normal((24, 256))
    vectors += 0.1 * rng.standard_normal(vectors.shape)
    vectors[2::3] = vectors[1::3] + 0.05 * rng.standard_normal((1_000, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    near = NearDuplicates(vectors.__getitem__, 0.9)
    config = RetrievalConfig(max_per_class=3_000, duplicate_similarity=0.9)
    table = candidates_of([0] * 3_000, list(range(3_000)))
    mark_drops(table, NOTHING, config, near=near)
    assert taken_of(table) == plain(table.assign(dropped=""), vectors, config)
    assert near.cosines < 2_000_000


def test_what_is_left_when_a_class_has_enough_is_not_looked_at() -> None:
    asked: list[int] = []

    def read(rows: NDArray[np.int64]) -> Vectors:
        asked.extend(rows.tolist())
        return np.eye(2_000, dtype=np.float32)[rows]

    table = candidates_of([0] * 2_000, list(range(2_000)))
    mark_drops(table, NOTHING, RetrievalConfig(max_per_class=100), near=NearDuplicates(read, 0.9))
    assert sorted(asked) == list(range(100))
    assert (table["dropped"] == "cap").sum() == 1_900


def test_the_first_of_two_look_alikes_stays() -> None:
    angles = np.deg2rad([0, 20, 40, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = candidates_of([0, 1, 0, 1], [2, 1, 0, 3])
    mark_drops(table, NOTHING, RetrievalConfig(), near=NearDuplicates(vectors.__getitem__, 0.9))
    assert table.set_index("row")["dropped"].to_dict() == {
        2: "",
        1: "near_duplicate",
        0: "",
        3: "near_duplicate",
    }
