"""`choose: all`: every pair of a corpus that was retrieved before becomes part of the retrieved
set.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from support.upkeep import change_pipeline
from support.vectors import read_vectors

from react_pipeline.clip.model import load
from react_pipeline.clip.prompts import class_prompts
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs


def test_every_pair_counts_for_the_class_of_its_caption(indexed_project: Project) -> None:
    project = change_pipeline(
        indexed_project, retrieval={"choose": "all", "near_duplicate_similarity": 1.01}
    )
    publish_evaluation_set(project, "shapes")
    artifact = retrieve_pairs(project, "shapes")
    embeddings = project.store.current("corpus_embeddings", "all")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    distinct = read_metadata(embeddings, ["image_sha256"])["image_sha256"].drop_duplicates()
    removed = artifact.counts["dropped"]
    assert (
        len(pairs) + removed["evaluation_image_hash"] + removed["exact_duplicate"]
        == embeddings.counts["rows"]
    )
    assert len(pairs) >= len(distinct) - removed["evaluation_image_hash"]
    assert artifact.counts["shortfall"] == 0

    prompts = class_prompts(project.domain("shapes"))
    encoded = (
        load(project.store.current("base_checkpoint", "all").path)
        .encode_texts(prompts["prompt"].tolist())
        .numpy()
    )
    means = np.stack([encoded[prompts["class_id"] == number].mean(axis=0) for number in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = (read_vectors(embeddings, "text")[pairs["row"]] @ means.T).argmax(axis=1)
    assert pairs["class"].tolist() == [
        project.domain("shapes").class_names[number] for number in nearest
    ]
