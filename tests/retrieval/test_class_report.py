"""The report per class: tables, a picture and a page that is safe to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from support.retrieval import DOMAIN, NOTHING, Seen, hits_of

from react_pipeline.clip.prompts import class_prompts
from react_pipeline.retrieval import Queries
from react_pipeline.retrieval.chosen_pairs import class_report, write_report
from react_pipeline.retrieval.fusion import fuse
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, choose
from react_pipeline.settings.retrieval import RetrievalConfig

SEEDS = pd.DataFrame({"class_id": [1, 1], "name": ["a.png", "b.png"]})
CONFIG = RetrievalConfig(k_per_prompt=2, modes=("t2t", "i2i"), max_per_class=1)


def test_the_report_has_every_class_and_no_html_of_its_names(tmp_path: Path) -> None:
    hits = hits_of(
        ("t2t", "cat", 10, 0.5, 0), ("t2t", "cat", 20, 0.4, 1), ("t2t", "dog", 30, 0.4, 0)
    )
    seeded = hits.iloc[[0, 2]].assign(mode="i2i", class_id=1, query=9)
    hits = pd.concat([hits, seeded], ignore_index=True)
    candidates = fuse(hits, CONFIG)
    candidates = candidates.assign(image_sha256=candidates["row"].astype(str))
    choose(candidates, Seen(), NOTHING, CONFIG)  # type: ignore[arg-type]
    queries = Queries(class_prompts(DOMAIN), SEEDS, np.zeros((6, 2), np.float32))
    table = class_report(DOMAIN, queries, hits, candidates, CONFIG)
    assert table["class"].tolist() == ["cat", "dog", "eel"]
    assert table["prompts"].tolist() == [1, 2, 1] and table["seeds"].tolist() == [0, 2, 0]
    assert table["kept"].tolist() == [1, 1, 0] and table[SHARED].tolist() == [0, 1, 0]
    # k times the prompts, and k times the seeds, less what was found.
    assert table["shortfall"].tolist() == [0, 2 * 2 + 2 * 2 - 3, 2]
    assert (table["candidates"] == table[["kept", SHARED, *DROP_REASONS]].sum(axis=1)).all()

    table["class"] = ["<script>alert(1)</script>", "a|b", "eel"]
    counts = {"pairs": 2, "classes": 2, "several_classes": 1}
    counts |= {"starving": ["eel"], "evaluation_sets": {"pets": 3}}
    write_report(tmp_path, "<b>pets</b>", table, candidates, CONFIG, counts)
    assert pd.read_parquet(tmp_path / "classes.parquet")["kept"].tolist() == [1, 1, 0]
    with Image.open(tmp_path / "similarity.png") as picture:
        assert picture.width == 900
    page = (tmp_path / "report.md").read_text()
    assert "<script>" not in page and "<b>" not in page and "a&#124;b" in page
    assert all(text in page for text in ("1 pairs): eel.", "| cap |", "3 images of pets"))
