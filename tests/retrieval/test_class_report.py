"""The report per class: its counts, and a page that is safe to show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.retrieval import DOMAIN, NOTHING, Seen, hits_of

from react_pipeline.clip.prompts import class_prompts
from react_pipeline.retrieval import Queries
from react_pipeline.retrieval.class_report import (
    class_report,
    report_page,
    write_report,
)
from react_pipeline.retrieval.fusion import fuse
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, choose
from react_pipeline.settings.retrieval import RetrievalConfig

SEEDS = pd.DataFrame({"class_id": [1, 1], "name": ["a.png", "b.png"]})
COUNTS = {
    "pairs": 2,
    "classes": 2,
    "several_classes": 1,
    "starving": ["eel"],
    "evaluation_sets": {"pets": 3},
}


@pytest.fixture
def config() -> RetrievalConfig:
    return RetrievalConfig(k_per_prompt=2, modes=("t2t", "i2i"), max_per_class=1)


@pytest.fixture
def hits() -> pd.DataFrame:
    found = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2t", "cat", 20, 0.4, 1), ("t2t", "dog", 30, 0.4, 0)
    )
    return pd.concat(
        [found, found.iloc[[0, 2]].assign(mode="i2i", class_id=1, query=9)], ignore_index=True
    )


@pytest.fixture
def candidates(hits: pd.DataFrame, config: RetrievalConfig) -> pd.DataFrame:
    table = fuse(hits, config)
    table = table.assign(image_sha256=table["row"].astype(str))
    choose(table, Seen(), NOTHING, config)  # type: ignore[arg-type]
    return table


def report(hits: pd.DataFrame, candidates: pd.DataFrame, config: RetrievalConfig) -> pd.DataFrame:
    queries = Queries(class_prompts(DOMAIN), SEEDS, np.zeros((6, 2), np.float32))
    return class_report(DOMAIN, queries, hits, candidates, config)


def test_report_has_every_class_and_shortfall_of_search(hits, candidates, config) -> None:  # type: ignore[no-untyped-def]
    table = report(hits, candidates, config)
    assert table["class"].tolist() == ["cat", "dog", "eel"]
    assert table["prompts"].tolist() == [1, 2, 1] and table["seeds"].tolist() == [0, 2, 0]
    assert table["kept"].tolist() == [1, 1, 0] and table[SHARED].tolist() == [0, 1, 0]
    # k times the prompts, and k times the seeds, less what was found.
    assert table["shortfall"].tolist() == [0, 2 * 2 + 2 * 2 - 3, 2]
    assert (table["candidates"] == table[["kept", SHARED, *DROP_REASONS]].sum(axis=1)).all()
    assert table["candidates"].sum() == len(candidates)


def test_names_cannot_become_html_or_break_the_table(hits, candidates, config) -> None:  # type: ignore[no-untyped-def]
    classes = report(hits, candidates, config)
    names = {"cat": "<script>alert(1)</script>", "dog": "a|b"}
    classes["class"] = classes["class"].replace(names)
    page = report_page("<b>pets</b>", classes, config, COUNTS)
    assert "<script>" not in page and "<b>" not in page and "a&#124;b" in page


def test_the_report_is_written_as_tables_a_picture_and_a_page(
    hits, candidates, config, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    classes = report(hits, candidates, config)
    write_report(tmp_path, "pets", classes, candidates, config, COUNTS)
    assert pd.read_parquet(tmp_path / "classes.parquet")["kept"].tolist() == [1, 1, 0]
    with Image.open(tmp_path / "similarity.png") as picture:
        assert picture.width == 900
    page = (tmp_path / "report.md").read_text()
    assert (
        "Starving (fewer than 1 pairs): eel." in page
        and "| cap |" in page
        and "3 images of pets" in page
    )
