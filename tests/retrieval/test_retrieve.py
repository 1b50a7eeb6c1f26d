"""Retrieval: the artifact, on a real index."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.retrieval import configure, pairs_of
from support.vectors import read_vectors

from react_pipeline.clip import class_prompts, loaded_base
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.indexing import Index, index
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.ranking import DROP_REASONS
from react_pipeline.retrieval.retrieve import retrieve_pairs


@pytest.fixture
def project(indexed_project: Project) -> Project:
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project


def test_a_retrieved_set_holds_the_pairs_it_lists(project: Project) -> None:
    artifact = retrieve_pairs(project, "shapes")
    pairs = pairs_of(artifact)
    metadata = read_metadata(project.store.current("corpus_embeddings", "all"))
    assert len(pairs) == artifact.counts["pairs"] > 0
    columns = ["caption", "image_sha256"]
    pairs = pairs.set_index("row").sort_index()[columns]
    pd.testing.assert_frame_equal(pairs, metadata.loc[pairs.index, columns], check_names=False)
    collected = sorted(CollectedPairs(artifact))
    assert [pair.row for pair in collected] == pairs.index.tolist()
    for pair, listed in zip(collected, pairs.itertuples(), strict=True):
        assert hashlib.sha256(pair.image).hexdigest() == listed.image_sha256
        assert pair.caption == listed.caption
    with Image.open(artifact.file("contact_sheet.png")) as sheet:
        assert sheet.format == "PNG"


def test_counts_agree_with_the_report_per_class(project: Project) -> None:
    artifact = retrieve_pairs(project, "shapes")
    report = pd.read_parquet(artifact.file("classes.parquet"))
    pairs = pairs_of(artifact)
    assert report["prompts"].tolist() == [4, 2, 2, 2]
    kept = pairs["class"].value_counts().reindex(report["class"], fill_value=0)
    assert report["kept"].tolist() == kept.tolist()
    counts = artifact.counts
    assert counts["starving"] == report.loc[report["kept"] == 0, "class"].tolist()
    dropped = {reason: report[reason].sum() for reason in DROP_REASONS}
    assert counts["dropped"] == dropped
    assert counts["candidates"] == counts["pairs"] + counts["shared"] + sum(dropped.values())
    assert counts["several_classes"] == (pairs["classes"].str.len() > 1).sum() > 0
    assert all(own == every[0] for own, every in zip(pairs["class"], pairs["classes"], strict=True))


def prompt_vectors(project: Project) -> tuple[pd.DataFrame, np.ndarray]:
    prompts = class_prompts(project.domain("shapes"))
    clip = loaded_base(project.store.current("base_checkpoint", "all").path, "cpu")
    return prompts, clip.encode_texts(prompts["prompt"].tolist()).numpy()


def test_every_kept_similarity_is_that_of_its_prompt_and_row(project: Project) -> None:
    artifact = retrieve_pairs(project, "shapes")
    pairs = pairs_of(artifact)
    embeddings = project.store.current("corpus_embeddings", "all")
    prompts, vectors = prompt_vectors(project)
    asked = vectors[pd.Index(prompts["prompt"]).get_indexer(pairs["prompt"])]
    for mode, side in (("t2t", "text"), ("t2i", "image")):
        mine = (pairs["mode"] == mode).to_numpy()
        cosines = (asked[mine] * read_vectors(embeddings, side)[pairs["row"][mine]]).sum(axis=1)
        np.testing.assert_allclose(cosines, pairs["similarity"][mine], atol=2e-3)
        assert artifact.counts["pairs_by_mode"][mode] == mine.sum()


def test_filter_keeps_what_text_finds_in_order_of_images(project: Project) -> None:
    configure(project, modes=["t2t"], fusion="filter", k_per_prompt=40, max_per_class=5)
    pairs = pairs_of(retrieve_pairs(project, "shapes"))
    assert set(pairs["mode"]) == {"t2t"}
    prompts, vectors = prompt_vectors(project)
    images = read_vectors(project.store.current("corpus_embeddings", "all"), "image")
    for name, of_class in pairs.groupby("class"):
        mean = vectors[(prompts["class"] == name).to_numpy()].mean(axis=0)
        cosines = images[of_class["row"]] @ (mean / np.linalg.norm(mean))
        np.testing.assert_allclose(of_class["score"], cosines, atol=2e-3)
        assert of_class["score"].is_monotonic_decreasing


def test_rank_by_prompts_keeps_the_nearest_of_each_prompt(project: Project) -> None:
    configure(project, modes=["t2t"], rank="prompts", k_per_prompt=6, max_per_class=1)
    artifact = retrieve_pairs(project, "shapes")
    pairs = pairs_of(artifact)
    searched = Index(project.store.current("faiss_index", "all"))
    found = searched.search("text", prompt_vectors(project)[1], 6)
    dropped = artifact.counts["dropped"]
    assert {*pairs["row"]} <= {*found["row"]}
    assert len(pairs) + sum(dropped.values()) == found["row"].nunique()
    assert dropped["cap"] == 0 and len(pairs) > 4


def test_every_pair_counts_for_the_class_of_its_caption(project: Project) -> None:
    configure(project, choose="all", near_duplicate_similarity=1.01)
    artifact = retrieve_pairs(project, "shapes")
    embeddings = project.store.current("corpus_embeddings", "all")
    pairs = pairs_of(artifact)
    removed = artifact.counts["dropped"]
    kept_out = removed["evaluation_image_hash"] + removed["exact_duplicate"]
    assert len(pairs) + kept_out == embeddings.counts["rows"]
    distinct = read_metadata(embeddings, ["image_sha256"])["image_sha256"].nunique()
    assert len(pairs) >= distinct - removed["evaluation_image_hash"]
    assert artifact.counts["shortfall"] == 0
    prompts, vectors = prompt_vectors(project)
    means = np.stack([vectors[prompts["class_id"] == number].mean(axis=0) for number in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = (read_vectors(embeddings, "text")[pairs["row"]] @ means.T).argmax(axis=1)
    names = project.domain("shapes").class_names
    assert pairs["class"].tolist() == [names[number] for number in nearest]


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_build_repeats_no_search_and_reuses_no_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("react_pipeline.store.store.with_digest", interrupted)
        retrieve_pairs(project, "shapes")
    (shard,) = project.store.root.glob(".scratch/*/*/built/files/shards/00000.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # of the first image, which no other check sees
    shard.write_bytes(data)
    monkeypatch.setattr(index, "exact_hits", interrupted)
    artifact = retrieve_pairs(project, "shapes")
    monkeypatch.undo()
    assert not list((project.store.root / ".scratch").iterdir())
    shutil.rmtree(artifact.path)
    undisturbed = retrieve_pairs(project, "shapes")
    assert artifact.manifest["files"] == undisturbed.manifest["files"]
