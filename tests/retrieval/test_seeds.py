"""Seeds: a class's own images as queries, and those that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.drawings import draw, encode, evaluation_image
from support.retrieval import configure, pairs_of
from support.vectors import read_vectors

from react_pipeline.clip import load
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.store import InputError, StaleArtifact


@pytest.fixture
def project(indexed_project: Project) -> Project:
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project


def write_seed(project: Project, name: str, data: bytes) -> Path:
    path = project.config.domains / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_seed_images_find_the_images_most_like_them(project: Project) -> None:
    write_seed(project, "seeds/circle.png", encode(draw("circle", "red", 5000)))
    configure(project, seeds={"circle": ["seeds/circle.png"]}, modes=["i2i"], k_per_prompt=7)
    artifact = retrieve_pairs(project, "shapes")
    pairs = pairs_of(artifact)
    assert set(pairs["class"]) == {"circle"} and set(pairs["mode"]) == {"i2i"}
    assert set(pairs["prompt"]) == {"seed: seeds/circle.png"}
    clip = load(project.store.current("base_checkpoint", "all").path)
    pixels = clip.preprocess(draw("circle", "red", 5000))[None]
    vector = clip.encode_images(pixels).numpy()[0]
    cosines = read_vectors(project.store.current("corpus_embeddings", "all"), "image") @ vector
    np.testing.assert_allclose(
        np.sort(pairs["similarity"])[::-1], np.sort(cosines)[::-1][: len(pairs)], atol=2e-3
    )
    classes = pd.read_parquet(artifact.file("classes.parquet"))
    assert classes["seeds"].tolist() == [1, 0, 0, 0] and not classes["shortfall"].any()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(evaluation_image("circle", 0)), "the same file"),
        (encode(evaluation_image("circle", 0), "bmp"), "cosine 1.000"),
    ],
    ids=["bytes", "picture"],
)
def test_a_seed_that_shows_an_evaluation_image_is_refused(
    project: Project, data: bytes, words: str
) -> None:
    write_seed(project, "seed.png", data)
    configure(
        project, seeds={"circle": ["seed.png"]}, modes=["i2i"], near_duplicate_similarity=0.9999
    )
    with pytest.raises(InputError, match=r"seed\.png") as raised:
        retrieve_pairs(project, "shapes")
    assert words in str(raised.value) and "evaluation images" in str(raised.value)


def test_missing_seeds_are_reported_all_at_once(project: Project) -> None:
    os.mkfifo(project.config.domains / "pipe.png")  # which would be waited for
    configure(project, seeds={"circle": ["a.png", "b.png", "pipe.png"]}, modes=["i2i"])
    with pytest.raises(InputError, match=r"(?s)3 cannot be read.*a\.png.*b\.png.*pipe\.png"):
        retrieve_pairs(project, "shapes")


def test_a_mode_that_needs_seeds_says_so(project: Project) -> None:
    configure(project, seeds={}, modes=["i2i"])
    with pytest.raises(InputError, match="no class has `seeds`"):
        retrieve_pairs(project, "shapes")


def fingerprints(project: Project) -> list[str]:
    stages = ("retrieved_set", "evaluation_set")
    return [resolve(project, stage, "shapes").fingerprint for stage in stages]


def test_seeds_count_for_the_fingerprint_only_where_used(
    project: Project,
) -> None:
    plain = fingerprints(project)
    path = write_seed(project, "seed.png", encode(draw("circle", "red", 5000)))
    configure(project, seeds={"circle": ["seed.png"]})
    assert fingerprints(project) == plain
    configure(project, modes=["t2t", "i2i"])
    used = retrieve_pairs(project, "shapes")
    assert used.fingerprint not in plain
    path.write_bytes(encode(draw("circle", "green", 5000)))
    with pytest.raises(StaleArtifact, match="seeds"):
        fresh(project, "retrieved_set", "shapes")
