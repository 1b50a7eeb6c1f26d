"""The order of candidates, which of them are kept, why the others are not, and the report of
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.retrieval import DOMAIN, NOTHING, Seen, hits_of

from react_pipeline.clip import class_prompts
from react_pipeline.retrieval import Queries
from react_pipeline.retrieval.chosen_pairs import class_report, write_report
from react_pipeline.retrieval.decontamination import KeptOut
from react_pipeline.retrieval.fusion import apply_filter, fuse
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, choose, join_classes
from react_pipeline.settings import RetrievalConfig

ALIKE = 0.9
Hit = tuple[str, str, int, float, int]


def candidates_of(
    hits: pd.DataFrame,
    config: RetrievalConfig,
    evaluation: KeptOut = NOTHING,
    images: Seen | None = None,
    **columns: list[str],
) -> pd.DataFrame:
    candidates = fuse(hits, config)
    digests = [f"image {row // 10}" for row in candidates["row"]]
    candidates = candidates.assign(**{"image_sha256": digests, **columns})
    choose(candidates, images or Seen(), evaluation, config)  # type: ignore[arg-type]
    return candidates


def dropped(candidates: pd.DataFrame, key: str = "row") -> dict[Any, str]:
    return candidates.set_index(key)["dropped"].to_dict()


def of_cats(*rows: int) -> list[Hit]:
    """Hits of one class, the best first."""
    return [("t2t", "cat", row, 1 - number / 100, number) for number, row in enumerate(rows)]


def test_a_hit_above_the_floor_of_its_mode_goes_first() -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2i", "cat", 10, 0.2, 0), ("t2t", "cat", 20, 0.5, 1)
    )
    best = fuse(hits, RetrievalConfig(min_similarity={"t2t": 0.55})).set_index("row")
    assert best.loc[10, "mode"] == "t2i"
    assert best["dropped"].to_dict() == {10: "", 20: "below_similarity"}


@pytest.mark.parametrize(
    ("fusion", "order"), [("preference", [1, 2, 4, 3]), ("filter", [4, 2, 3, 1])]
)
def test_a_filter_drops_the_unlike_and_may_order_by_likeness(fusion: Any, order: list[int]) -> None:
    config = RetrievalConfig(fusion=fusion, min_similarity={"t2t": 0.5, "filter": 0.2})
    found = fuse(
        hits_of(*of_cats(1, 2), ("t2t", "cat", 3, 0.4, 2), ("t2i", "cat", 4, 0.3, 0)), config
    )
    like = found["row"].map({1: 0.1, 2: 0.25, 3: 0.9, 4: 0.3}).to_numpy(np.float32)
    filtered = apply_filter(found, like, config)
    assert filtered["row"].tolist() == order
    assert dropped(filtered) == {4: "", 2: "", 3: "below_similarity", 1: "below_filter"}


def test_a_row_of_several_classes_goes_to_the_most_similar() -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2t", "dog", 10, 0.6, 0), ("t2t", "eel", 10, 0.6, 0)
    )
    candidates = candidates_of(hits, RetrievalConfig())
    assert dropped(candidates, "class") == {"dog": "", "cat": SHARED, "eel": SHARED}
    assert join_classes(candidates, DOMAIN.class_names).to_dict() == {10: ["dog", "eel", "cat"]}
    # Modes are never compared by similarity, and a class below the floor does not want the row.
    hits = hits_of(("t2t", "cat", 10, 0.5, 5), ("t2i", "dog", 10, 0.9, 0), ("t2t", "eel", 10, 0, 0))
    candidates = candidates_of(hits, RetrievalConfig(min_similarity={"t2t": 0.4}))
    assert join_classes(candidates, DOMAIN.class_names).to_dict() == {10: ["cat", "dog"]}


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
def test_every_candidate_is_kept_or_dropped_exactly_once(hits: list[Hit], random: Any) -> None:
    config = RetrievalConfig(max_per_class=3, k_per_prompt=5, min_similarity={"t2i": 0.15})
    evaluation = KeptOut(frozenset({"image 2"}), np.eye(2, dtype=np.float32), ALIKE)
    candidates = candidates_of(hits_of(*hits), config, evaluation)
    assert candidates["dropped"].isin(("", SHARED, *DROP_REASONS)).all()
    kept = candidates[candidates["dropped"] == ""]
    assert kept["row"].is_unique and kept["image_sha256"].is_unique
    assert kept.groupby("class_id").size().le(3).all()
    random.shuffle(hits)
    shuffled = candidates_of(hits_of(*hits), config, evaluation)
    columns = ["row", "class", "similarity", "dropped"]
    pd.testing.assert_frame_equal(candidates[columns], shuffled[columns])


def test_a_total_takes_from_the_largest_classes_first() -> None:
    hits = hits_of(
        *of_cats(*range(10, 70, 10)),
        *[("t2t", "dog", 1000 + 10 * number, 0.5, number) for number in range(2)],
        ("t2t", "eel", 2000, 0.1, 0),
    )
    candidates = candidates_of(hits, RetrievalConfig(max_pairs=5))
    kept = candidates[candidates["dropped"] == ""]
    assert kept["class"].value_counts().to_dict() == {"cat": 2, "dog": 2, "eel": 1}
    assert kept.loc[kept["class"] == "cat", "row"].tolist() == [10, 20]
    assert (candidates["dropped"] == "total").sum() == 4


def test_a_taken_image_is_dropped_again_by_bytes_or_url() -> None:
    candidates = candidates_of(
        hits_of(*of_cats(0, 1, 2, 3), ("t2t", "dog", 4, 0.1, 0)),
        RetrievalConfig(),
        image_sha256=["a", "b", "", "a", ""],
        url=["http://0", "http://1", "http://1", "http://3", "http://3"],
    )
    # 3 has the bytes of 0 and is not taken; so its URL is free, and without bytes nothing else is
    # known of 4.
    assert dropped(candidates) == {0: "", 1: "", 2: "exact_duplicate", 3: "exact_duplicate", 4: ""}


def test_rows_that_classes_want_equally_go_to_them_in_turns() -> None:
    hits = [("t2t", name, row, 1 - row / 10, row) for row in range(6) for name in ("cat", "dog")]
    config = RetrievalConfig(max_per_class=2)
    candidates = candidates_of(hits_of(*hits), config, image_sha256=[""] * 12)
    kept = candidates[candidates["dropped"] == ""]
    rows = {name: rows["row"].tolist() for name, rows in kept.groupby("class")}
    assert rows == {"cat": [0, 2], "dog": [1, 3]}
    names = join_classes(candidates, DOMAIN.class_names)
    assert set(names.map(tuple)) == {("cat", "dog"), ("dog", "cat")}


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.75, 1.0]), st.sampled_from([1, 3, 1_024]))
@settings(max_examples=40, deadline=None)
def test_chosen_pairs_equal_a_comparison_of_all_pairs(
    seed: int, similarity: float, block: int
) -> None:
    random = np.random.default_rng(seed)
    # 16 times +-0.25, each a centre with a few signs changed: every cosine is exact in float32.
    signs = random.choice([-1, 1], (random.integers(1, 30), 16))
    signs = signs[random.integers(len(signs), size=90)]
    vectors = (0.25 * np.where(random.random((90, 16)) < 0.06, -signs, signs)).astype(np.float32)
    rows, class_ids = random.integers(0, 90, 150), random.integers(0, 4, 150)
    table = pd.DataFrame({"class_id": class_ids, "row": rows}).drop_duplicates(ignore_index=True)
    table["similarity"] = np.linspace(1, 0, len(table))
    config = RetrievalConfig(
        max_per_class=int(random.integers(1, 30)), duplicate_similarity=similarity
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("react_pipeline.retrieval.ranking.BLOCK_ROWS", block)
        patch.setattr("react_pipeline.retrieval.ranking.REFILL_ROUNDS", 99)
        for count in (0, 5, 20):
            failed = frozenset(random.choice(90, count, replace=False).tolist())
            found = table.assign(dropped="", image_sha256="")
            choose(found, Seen(vectors, failed), NOTHING, config)  # type: ignore[arg-type]
            taken = found.loc[found["dropped"] == "", "row"].tolist()
            assert taken == by_comparing(table, vectors, config, failed)


def by_comparing(
    table: pd.DataFrame, vectors: Any, config: RetrievalConfig, failed: frozenset[int]
) -> list[int]:
    """Which rows are taken, by comparing each with each, the best first."""
    alike = vectors @ vectors.T >= config.duplicate_similarity
    taken: list[int] = []
    sizes = dict.fromkeys(range(4), 0)
    best = table[~table["row"].isin(failed)].drop_duplicates("row")
    for class_id, row in best[["class_id", "row"]].itertuples(index=False):
        if sizes[class_id] < config.max_per_class and not alike[row, taken].any():
            taken.append(row)
            sizes[class_id] += 1
    return taken


def test_the_report_has_every_class_and_no_html_of_its_names(tmp_path: Path) -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2t", "cat", 20, 0.4, 1), ("t2t", "dog", 30, 0.4, 0)
    )
    seeded = hits.iloc[[0, 2]].assign(mode="i2i", class_id=1, query=9)
    hits = pd.concat([hits, seeded], ignore_index=True)
    config = RetrievalConfig(k_per_prompt=2, modes=("t2t", "i2i"), max_per_class=1)
    candidates = candidates_of(hits, config)
    seeds = pd.DataFrame({"class_id": [1, 1], "name": ["a.png", "b.png"]})
    queries = Queries(class_prompts(DOMAIN), seeds, np.zeros((6, 2), np.float32))
    table = class_report(DOMAIN, queries, hits, candidates, config)
    assert table["class"].tolist() == ["cat", "dog", "eel"]
    assert table["prompts"].tolist() == [1, 2, 1] and table["seeds"].tolist() == [0, 2, 0]
    assert table["kept"].tolist() == [1, 1, 0] and table[SHARED].tolist() == [0, 1, 0]
    # k times the prompts, and k times the seeds, less what was found.
    assert table["shortfall"].tolist() == [0, 2 * 2 + 2 * 2 - 3, 2]
    assert (table["candidates"] == table[["kept", SHARED, *DROP_REASONS]].sum(axis=1)).all()

    table["class"] = ["<script>alert(1)</script>", "a|b", "eel"]
    counts = {"pairs": 2, "classes": 2, "several_classes": 1}
    counts |= {"starving": ["eel"], "evaluation_sets": {"pets": 3}}
    write_report(tmp_path, "<b>pets</b>", table, candidates, config, counts)
    assert pd.read_parquet(tmp_path / "classes.parquet")["kept"].tolist() == [1, 1, 0]
    with Image.open(tmp_path / "similarity.png") as picture:
        assert picture.width == 900
    page = (tmp_path / "report.md").read_text()
    assert "<script>" not in page and "<b>" not in page and "a&#124;b" in page
    assert all(text in page for text in ("1 pairs): eel.", "| cap |", "3 images of pets"))


def test_an_image_that_a_full_class_leaves_is_free() -> None:
    hits = hits_of(*of_cats(10, 11), ("t2t", "dog", 12, 0.7, 0))
    found = candidates_of(hits, RetrievalConfig(max_per_class=1), image_sha256=["x", "y", "y"])
    assert dropped(found) == {10: "", 11: "cap", 12: ""}
