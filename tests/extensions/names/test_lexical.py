"""Retrieval by words: which captions it finds, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.upkeep import change_pipeline
from support.vectors import read_vectors

from react_pipeline.clip.model import load
from react_pipeline.clip.prompts import class_prompts
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.extensions.names import name_counts
from react_pipeline.extensions.names.name_counts import lexical_hits
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.settings.retrieval import RetrievalConfig
from react_pipeline.store import Scratch


def test_captions_that_say_a_name_by_likeness(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embeddings = indexed_project.store.current("corpus_embeddings", "all")
    monkeypatch.setattr(name_counts, "_TASK_ROWS", 11)
    monkeypatch.setattr(name_counts, "_BATCH_ROWS", 4)
    prompts = class_prompts(indexed_project.domain("shapes"))
    clip = load(indexed_project.store.current("base_checkpoint", "all").path)
    vectors = clip.encode_texts(prompts["prompt"].tolist()).numpy()
    settings = RetrievalConfig(modes=("t2t", "lexical"), k_per_prompt=2)
    hits = lexical_hits(embeddings, prompts, vectors, settings, Scratch(tmp_path))
    captions = read_metadata(embeddings, ["caption"])["caption"].fillna("")
    texts = read_vectors(embeddings, "text")
    for class_id, of_class in prompts.groupby("class_id"):
        names = "|".join(of_class["name"].unique())
        rows = np.flatnonzero(captions.str.contains(rf"(?i)\b(?:{names})\b"))
        mean = vectors[of_class.index].mean(axis=0)
        cosines = texts[rows] @ (mean / np.linalg.norm(mean))
        ours = hits[hits["class_id"] == class_id].sort_values("rank")
        count = min(2 * len(of_class), len(rows))
        np.testing.assert_allclose(
            ours["similarity"], np.sort(cosines)[::-1][:count], rtol=1e-4, atol=1e-5
        )
        assert set(ours["row"]) <= set(rows) and ours["rank"].tolist() == list(range(count))
        for hit in ours.itertuples():
            name = prompts.loc[hit.query, "name"]
            assert name.lower() in captions[hit.row].lower()
    assert set(hits["mode"]) == {"lexical"} and hits["mode"].cat.codes.unique().tolist() == [1]


def test_pairs_say_their_class_before_others_fill_up(indexed_project: Project) -> None:
    project = change_pipeline(
        indexed_project,
        retrieval={"modes": ["lexical", "t2t"], "k_per_prompt": 20, "max_per_class": 20},
    )
    publish_evaluation_set(project, "shapes")
    artifact = retrieve_pairs(project, "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    said = pairs[pairs["mode"] == "lexical"]
    assert 0 < artifact.counts["pairs_by_mode"]["lexical"] == len(said)
    for label, caption in zip(said["class"], said["caption"], strict=True):
        assert label in caption.lower()
