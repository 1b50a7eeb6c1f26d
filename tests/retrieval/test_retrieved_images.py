"""Looking at images: pairs are chosen again until all are available, for a bounded number of
rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.drawings import draw, encode
from support.retrieval import NOTHING, Web, hits_of, images_of, no_digest_is_known

from react_pipeline.project.project import Project
from react_pipeline.retrieval import ranking
from react_pipeline.retrieval.decontamination import KeptOut
from react_pipeline.retrieval.fusion import fuse
from react_pipeline.retrieval.images import Images
from react_pipeline.settings.retrieval import RetrievalConfig


def candidates(count: int) -> pd.DataFrame:
    hits = hits_of(*[("t2t", "cat", row, 1 - row / 100, row) for row in range(count)])
    table = fuse(hits, RetrievalConfig())
    return table.assign(url=[f"http://{row}" for row in table["row"]], image_sha256="")


def choose(
    project: Project,
    web: Web,
    table: pd.DataFrame,
    evaluation: KeptOut = NOTHING,
    **settings: Any,
) -> tuple[Images, dict[int, str]]:
    config = RetrievalConfig(**settings)
    images = images_of(project, web)
    with no_digest_is_known():
        ranking.choose(table, images, evaluation, config)
    return images, table.set_index("row")["dropped"].to_dict()


IMAGE = encode(draw("circle", "red", 0))


def test_the_next_best_replace_what_was_not_available(indexed_project: Project) -> None:
    web = Web({row: IMAGE for row in range(8) if row not in (0, 3)})
    images, dropped = choose(indexed_project, web, candidates(8), max_per_class=3)
    assert [row for row, reason in dropped.items() if not reason] == [1, 2, 4]
    assert dropped[0] == dropped[3] == "not_collected"
    # No row is asked for twice, and a second time for twice as many as are missing.
    assert web.asked == [[0, 1, 2], [3, 4]]
    assert images.counts() == {"fetch_rounds": 2, "not_collected": {"http_404": 2}}


def test_the_same_url_is_not_asked_for_twice_to_fill_a_class(indexed_project: Project) -> None:
    table = candidates(8)
    table.loc[table["row"] > 2, "url"] = "http://the-same"
    web = Web(dict.fromkeys((1, 2, *range(4, 8)), IMAGE))
    _, dropped = choose(indexed_project, web, table, max_per_class=3)
    assert web.asked == [[0, 1, 2], [3], [4]]
    twins = dict.fromkeys((5, 6, 7), "exact_duplicate")
    assert dropped == dict.fromkeys((0, 3), "not_collected") | dict.fromkeys((1, 2, 4), "") | twins


def test_rows_without_a_usable_url_cost_no_round(
    indexed_project: Project,
) -> None:
    web, table = Web(dict.fromkeys(range(6), IMAGE)), candidates(6)
    table["url"] = ["", "", "file:///etc/passwd", *table["url"][3:]]
    images, dropped = choose(indexed_project, web, table, max_per_class=2)
    assert dropped == dict(enumerate([*["not_collected"] * 3, "", "", "cap"]))
    assert web.asked == [[3, 4]]
    assert images.counts() == {"fetch_rounds": 1, "not_collected": {}}


def test_rounds_are_bounded_and_keep_what_they_have(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "REFILL_ROUNDS", 1)
    web = Web({row: IMAGE for row in (1, 7)})
    _, dropped = choose(indexed_project, web, candidates(8), max_per_class=2)
    assert web.asked == [[0, 1], [2, 3]]
    assert [row for row, reason in dropped.items() if not reason] == [1]
    assert set(dropped.values()) == {"", "not_collected"}


def test_equal_bytes_are_recognized_once_images_are_there(
    indexed_project: Project,
) -> None:
    web = Web(dict.fromkeys(range(6), IMAGE), {0: "twin", 1: "twin", 2: "measured"})
    evaluation = KeptOut(frozenset({"measured"}), np.zeros((0, 32), np.float32), 1.01)
    table = candidates(6)
    _, dropped = choose(indexed_project, web, table, evaluation, max_per_class=3)
    reasons = ["", "exact_duplicate", "evaluation_image_hash", "", "", "cap"]
    assert dropped == dict(enumerate(reasons))
    assert table.set_index("row").loc[3, "image_sha256"] == "digest 3"
