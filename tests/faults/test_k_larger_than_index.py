"""FAULTS 16: a k larger than the index drops FAISS' padding, and the shortfall of each class is
reported.
"""

from __future__ import annotations

import pandas as pd
import yaml

from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs

ROWS = 96
K = 150


def test_a_k_beyond_the_index_gives_every_row_once_and_says_so(
    indexed_project: Project,
) -> None:
    path = indexed_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump({**domain, "retrieval": {"k_per_prompt": K, "max_per_class": K}})
    )
    publish_evaluation_set(indexed_project, "shapes")
    artifact = retrieve_pairs(indexed_project, "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    assert pairs["row"].between(0, ROWS - 1).all()
    assert not pairs["row"].duplicated().any()
    report = pd.read_parquet(artifact.file("classes.parquet"))
    assert report["shortfall"].tolist() == [
        prompts * 2 * (K - ROWS) for prompts in report["prompts"]
    ]
    assert artifact.counts["shortfall"] == report["shortfall"].sum()
    assert report["candidates"].tolist() == [ROWS] * 4
