"""Retrieval: ranking, drops, the report per class, and the two artifacts on a real index."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from react_pipeline.collect import read_pairs
from react_pipeline.config import ClassConfig, DomainConfig, RetrievalConfig
from react_pipeline.duplicates import EvaluationImages, leaked_images
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.lineage import Project
from react_pipeline.prompts import class_prompts
from react_pipeline.ranking import DROP_REASONS, best_hits, class_report, mark_drops
from react_pipeline.retrieve import draw_control, retrieve_pairs
from react_pipeline.vectors import read_metadata, read_vectors

DOMAIN = DomainConfig(slug="pets", classes=("cat", ClassConfig(name="dog", synonyms=("hound",)), "eel"))
NOTHING = EvaluationImages(frozenset(), np.zeros((0, 2), np.float32), 0.9)


def hits_of(*hits: tuple[str, str, int, float, int]) -> pd.DataFrame:
    """Hits as (mode, prompt's name, row, similarity, rank)."""
    prompts = class_prompts(DOMAIN).reset_index(names="query")
    table = pd.DataFrame(hits, columns=["mode", "name", "row", "similarity", "rank"])
    table["prompt"] = "a photo of a " + table.pop("name") + "."
    return table.merge(prompts, on="prompt", how="left", validate="many_to_one")


def candidates_of(hits: pd.DataFrame, config: RetrievalConfig, evaluation: EvaluationImages = NOTHING) -> pd.DataFrame:
    candidates = best_hits(hits, config)
    candidates["image_sha256"] = [f"image {row // 10}" for row in candidates["row"]]
    candidates["evaluation_similarity"] = np.where(candidates["row"] == 77, 0.95, 0.1)
    mark_drops(candidates, evaluation, config)
    return candidates


def test_the_best_hit_of_a_class_and_row_keeps_its_prompt_mode_and_rank() -> None:
    hits = hits_of(("t2i", "dog", 10, 0.9, 0), ("t2t", "dog", 10, 0.5, 3), ("t2t", "hound", 10, 0.6, 1))
    (best,) = best_hits(hits, RetrievalConfig()).to_dict("records")
    assert (best["prompt"], best["mode"], best["similarity"], best["rank"]) == ("a photo of a hound.", "t2t", 0.6, 1)
    (best,) = best_hits(hits, RetrievalConfig(modes=("t2i", "t2t"))).to_dict("records")
    assert (best["mode"], best["similarity"]) == ("t2i", 0.9)


def test_the_floor_is_the_modes_own_and_a_hit_above_it_goes_first() -> None:
    config = RetrievalConfig(min_similarity={"t2t": 0.55})
    hits = hits_of(("t2t", "cat", 10, 0.5, 0), ("t2i", "cat", 10, 0.2, 0), ("t2t", "cat", 20, 0.5, 1))
    best = best_hits(hits, config).set_index("row")
    assert best.loc[10, "mode"] == "t2i"
    assert best["dropped"].to_dict() == {10: "", 20: "below_similarity"}


def test_a_row_wanted_by_several_classes_goes_where_it_is_most_similar() -> None:
    hits = hits_of(("t2t", "cat", 10, 0.5, 0), ("t2t", "dog", 10, 0.6, 0), ("t2t", "eel", 10, 0.6, 0))
    candidates = candidates_of(hits, RetrievalConfig()).set_index("class")
    assert candidates["dropped"].to_dict() == {"dog": "", "cat": "several_classes", "eel": "several_classes"}


def test_modes_are_never_compared_by_similarity() -> None:
    hits = hits_of(("t2t", "cat", 10, 0.2, 5), ("t2i", "dog", 10, 0.9, 0))
    assert candidates_of(hits, RetrievalConfig()).set_index("class")["dropped"].to_dict() == {
        "cat": "",
        "dog": "several_classes",
    }


def test_equal_images_are_kept_once_within_and_across_classes() -> None:
    hits = hits_of(("t2t", "cat", 11, 0.5, 1), ("t2t", "cat", 12, 0.6, 0), ("t2t", "dog", 13, 0.7, 0))
    candidates = candidates_of(hits, RetrievalConfig()).set_index("row")
    assert candidates["dropped"].to_dict() == {13: "", 12: "exact_duplicate", 11: "exact_duplicate"}


def test_evaluation_images_are_dropped_by_hash_and_by_similarity() -> None:
    evaluation = EvaluationImages(frozenset({"image 3"}), np.eye(2, dtype=np.float32), 0.9)
    hits = hits_of(("t2t", "cat", 30, 0.5, 1), ("t2t", "cat", 77, 0.6, 0), ("t2t", "cat", 50, 0.1, 2))
    assert candidates_of(hits, RetrievalConfig(), evaluation).set_index("row")["dropped"].to_dict() == {
        30: "evaluation_image_hash",
        77: "evaluation_image_near",
        50: "",
    }


def test_the_cap_keeps_the_most_similar_of_each_class() -> None:
    hits = hits_of(*[("t2t", name, 10 * row, row / 10, 9 - row) for row in range(1, 6) for name in ("cat",)])
    candidates = candidates_of(hits, RetrievalConfig(max_per_class=2)).set_index("row")
    assert candidates.index[candidates["dropped"] == ""].tolist() == [50, 40]
    assert (candidates["dropped"] == "cap").sum() == 3


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
def test_every_candidate_is_kept_or_dropped_once_whatever_the_order_of_the_hits(hits, random) -> None:  # type: ignore[no-untyped-def]
    config = RetrievalConfig(max_per_class=3, k_per_prompt=5, min_similarity={"t2i": 0.15})
    evaluation = EvaluationImages(frozenset({"image 2"}), np.eye(2, dtype=np.float32), 0.9)
    table = hits_of(*hits)
    candidates = candidates_of(table, config, evaluation)
    report = class_report(DOMAIN, class_prompts(DOMAIN), table, candidates, config)
    assert (report["candidates"] == report[["kept", *DROP_REASONS]].sum(axis=1)).all()
    assert report["candidates"].sum() == len(candidates)
    kept = candidates[candidates["dropped"] == ""]
    assert not kept["row"].duplicated().any()
    assert not kept["image_sha256"].duplicated().any()
    assert kept.groupby("class_id").size().le(3).all()
    random.shuffle(hits)
    shuffled = candidates_of(hits_of(*hits), config, evaluation)
    columns = ["row", "class", "similarity", "dropped"]
    pd.testing.assert_frame_equal(candidates[columns], shuffled[columns])


def test_the_report_has_every_class_and_the_shortfall_of_the_search() -> None:
    config = RetrievalConfig(k_per_prompt=2, modes=("t2t",))
    hits = hits_of(("t2t", "cat", 10, 0.5, 0), ("t2t", "cat", 20, 0.4, 1), ("t2t", "dog", 30, 0.4, 0))
    report = class_report(DOMAIN, class_prompts(DOMAIN), hits, candidates_of(hits, config), config)
    assert report["class"].tolist() == ["cat", "dog", "eel"]
    assert report["prompts"].tolist() == [1, 2, 1]
    assert report["kept"].tolist() == [2, 1, 0]
    assert report["shortfall"].tolist() == [0, 3, 2]


def test_similarity_to_the_nearest_evaluation_image_is_exact_in_any_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors, images = (random.normal(size=(count, 8)).astype(np.float32) for count in (50, 30))
    monkeypatch.setattr("react_pipeline.duplicates._CHUNK_ROWS", 7)
    monkeypatch.setattr("react_pipeline.duplicates._CHUNK_IMAGES", 4)
    nearest = EvaluationImages(frozenset(), images, 0.9).similarity(vectors)
    np.testing.assert_allclose(nearest, (vectors @ images.T).max(axis=1), rtol=1e-5)
    assert np.isnan(NOTHING.similarity(vectors)).all()


@pytest.fixture
def project(indexed_project: Project) -> Project:
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project


def test_a_retrieved_set_holds_the_pairs_it_lists(project: Project) -> None:
    artifact = retrieve_pairs(project, "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    metadata = read_metadata(project.store.current("corpus_embeddings", "all"))
    collected = {row: (image, caption, name) for row, image, caption, name in read_pairs(artifact)}
    assert set(collected) == set(pairs["row"])
    assert len(pairs) == artifact.counts["pairs"] > 0
    for pair in pairs.itertuples():
        image, caption, _ = collected[pair.row]
        assert hashlib.sha256(image).hexdigest() == pair.image_sha256 == metadata.loc[pair.row, "image_sha256"]
        assert caption == pair.caption == metadata.loc[pair.row, "caption"]
    with Image.open(artifact.file("contact_sheet.png")) as sheet:
        assert sheet.format == "PNG"


def test_every_kept_similarity_is_that_of_its_prompt_and_row(project: Project) -> None:
    from react_pipeline.model import load

    artifact = retrieve_pairs(project, "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    embeddings = project.store.current("corpus_embeddings", "all")
    prompts = load(project.store.current("base_checkpoint", "all").path).encode_texts(pairs["prompt"].tolist()).numpy()
    for mode, side in (("t2t", "text"), ("t2i", "image")):
        mine = (pairs["mode"] == mode).to_numpy()
        rows = read_vectors(embeddings, side)[pairs["row"][mine]]
        np.testing.assert_allclose((prompts[mine] * rows).sum(axis=1), pairs["similarity"][mine], atol=2e-3)
    assert (
        artifact.counts["pairs_by_mode"] == pairs["mode"].value_counts().reindex(["t2t", "t2i"], fill_value=0).to_dict()
    )


def test_counts_agree_with_the_report_per_class(project: Project) -> None:
    artifact = retrieve_pairs(project, "shapes")
    report = pd.read_parquet(artifact.file("classes.parquet"))
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    assert report["prompts"].tolist() == [4, 2, 2, 2]
    assert report["kept"].tolist() == pairs["class"].value_counts().reindex(report["class"], fill_value=0).tolist()
    assert artifact.counts["starving"] == report.loc[report["kept"] == 0, "class"].tolist()
    assert artifact.counts["dropped"] == {reason: report[reason].sum() for reason in DROP_REASONS}
    assert artifact.counts["candidates"] == artifact.counts["pairs"] + sum(artifact.counts["dropped"].values())


def test_a_control_is_as_many_other_pairs_drawn_alike_each_time(project: Project, tmp_path: Path) -> None:
    retrieved = retrieve_pairs(project, "shapes")
    control = draw_control(project, "shapes")
    pairs = pd.read_parquet(control.file("pairs.parquet"))
    assert control.counts["pairs"] == len(pairs) == retrieved.counts["pairs"]
    assert set(pairs["mode"]) == {"random"}
    assert set(pairs["class"]) == {""}
    assert not pairs["row"].duplicated().any()
    assert not pairs["image_sha256"].duplicated().any()
    assert set(pairs["row"]) != set(pd.read_parquet(retrieved.file("pairs.parquet"))["row"])
    assert len(list(read_pairs(control))) == len(pairs)
    control.path.rename(tmp_path / "first")
    again = draw_control(project, "shapes")
    assert not again.reused
    assert again.manifest["files"] == control.manifest["files"]


def test_a_control_never_wants_more_than_the_corpus_has(project: Project) -> None:
    path = project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["retrieval"] = {"k_per_prompt": 500, "max_per_class": 500}
    path.write_text(yaml.safe_dump(domain))
    retrieved = retrieve_pairs(project, "shapes")
    control = draw_control(project, "shapes")
    assert control.counts["pairs"] == retrieved.counts["pairs"] == 95
    assert control.counts["shortfall"] == 0


def test_a_domain_without_an_evaluation_set_retrieves_too(project: Project) -> None:
    path = project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    del domain["evaluation"]
    path.write_text(yaml.safe_dump(domain))
    evaluation_set = publish_evaluation_set(project, "shapes")
    artifact = retrieve_pairs(project, "shapes")
    assert artifact.counts["evaluation_images"] == 0
    assert pd.read_parquet(artifact.file("pairs.parquet"))["evaluation_similarity"].isna().all()
    assert leaked_images(artifact, evaluation_set) == 0
    assert read_images(evaluation_set).empty
