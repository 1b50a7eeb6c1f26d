"""The order of `choose: diverse`: one of each kind first, nothing lost, the floors still hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from support.upkeep import change_pipeline

from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.diversity import diverse_order
from react_pipeline.retrieval.retrieve import retrieve_pairs


def images_of(kinds: list[int]) -> Callable[[pd.Series], NDArray[np.float32]]:
    """Vectors near one axis for each kind of image; rows count through the kinds."""
    vectors = 0.05 * np.random.default_rng(0).standard_normal((len(kinds), 8)).astype(np.float32)
    vectors[np.arange(len(kinds)), kinds] += 1
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda rows: unit[rows]


def test_each_kind_of_image_comes_before_a_second_one_of_a_kind() -> None:
    kinds = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    table = pd.DataFrame({"class_id": 0, "row": range(10), "dropped": ""})
    ordered = diverse_order(table, images_of(kinds), 3)
    assert sorted(ordered["row"]) == list(range(10))
    assert {kinds[row] for row in ordered["row"][:3]} == {0, 1, 2}


def test_classes_keep_their_places_and_rows_beyond_the_pool() -> None:
    kinds = [0, 1] * 10
    table = pd.DataFrame({"class_id": [0, 1] * 10, "row": range(20), "dropped": ""})
    table.loc[2, "dropped"] = "below_similarity"
    ordered = diverse_order(table, images_of(kinds), 2)
    assert ordered["class_id"].tolist() == table["class_id"].tolist()
    assert ordered["row"][2] == 2 and ordered["dropped"][2] == "below_similarity"
    assert ordered["row"][18] == 18 and ordered["row"][19] == 19


def test_a_class_with_no_more_than_is_wanted_keeps_its_order() -> None:
    table = pd.DataFrame({"class_id": 0, "row": [3, 1, 2], "dropped": ""})
    pd.testing.assert_frame_equal(diverse_order(table, images_of([0, 1, 2, 3]), 3), table)


def test_a_diverse_set_has_as_many_pairs_and_others(indexed_project: Project) -> None:
    rows = {}
    for choose in ("nearest", "diverse"):
        project = change_pipeline(indexed_project, retrieval={"choose": choose, "max_per_class": 4})
        publish_evaluation_set(project, "shapes")
        pairs = pd.read_parquet(retrieve_pairs(project, "shapes").file("pairs.parquet"))
        assert (pairs.groupby("class").size() == 4).all()
        rows[choose] = set(pairs["row"])
    assert rows["diverse"] != rows["nearest"]
