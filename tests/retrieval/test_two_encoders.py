"""`retrieval_encoder`: one CLIP finds the pairs, and another is customized on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_checkpoint, write_project
from safetensors.torch import load_file
from support.retrieval import pairs_of
from support.upkeep import change_pipeline

from react_pipeline.clip.model import load
from react_pipeline.extensions.automation.survey import State, places, survey
from react_pipeline.extensions.pages.search import CorpusSearch, search_pairs
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.retrieval.decontamination import leaked_images
from react_pipeline.stage import ALL

METHODS = ["base", "gated-image", "linear-head-control"]


@pytest.fixture(scope="module")
def retrieving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("retrieving"), seed=1, dimension=24)


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    retrieving: Path,
    drawings: Path,
) -> Project:
    """A project of two encoders with all up to the results of `shapes`."""
    sections = {"methods": METHODS, "retrieval": {"near_duplicate_similarity": 1.0}}
    sections["retrieval_encoder"] = {"pretrained": str(retrieving)}
    project = write_project(tmp_path_factory.mktemp("two"), tiny_checkpoint, drawings, **sections)
    for stage, key in places(project, ["shapes"]):
        if stage not in ("comparison", "promotion", "overview"):
            run(project, stage, key)
    return project


def test_one_encoder_finds_pairs_and_other_is_customized(
    published: Project, tiny_checkpoint: Path, retrieving: Path
) -> None:
    store, finder = published.store, load(retrieving)
    embeddings, pairs = (
        store.current("corpus_embeddings", ALL),
        store.current("retrieved_set", "shapes"),
    )
    assert set(embeddings.parents) == {"corpus", "retrieval_checkpoint"}
    assert embeddings.counts["dimension"] == 24
    table = pairs_of(pairs).query("mode == 't2t'")
    prompts, captions = (
        finder.encode_texts(table[name].tolist()).numpy() for name in ("prompt", "caption")
    )
    np.testing.assert_allclose((prompts * captions).sum(axis=1), table["similarity"], atol=2e-3)

    trained = store.current("customized_checkpoint", "shapes/gated-image")
    assert set(trained.parents) == {"base_checkpoint", "retrieved_set"}
    weights, frozen = (
        load_file(path / "open_clip_model.safetensors") for path in (trained.path, tiny_checkpoint)
    )
    assert all(torch.equal(weights[name], frozen[name]) for name in frozen if name != "logit_scale")
    head = store.current("customized_checkpoint", "shapes/linear-head-control")
    assert len(load_file(head.file("head.safetensors"))["head"]) == 32
    measured = store.current("domain_results", "shapes/base").parents["base_checkpoint"]
    assert measured == store.current("base_checkpoint", ALL).fingerprint


def test_search_page_and_leak_check_use_the_retrieving_encoder(
    published: Project, retrieving: Path
) -> None:
    hit = search_pairs(published, "a red circle", k=1).iloc[0]
    query, caption = load(retrieving).encode_texts(["a red circle", hit["caption"]])
    assert hit["similarity"] == pytest.approx(float(query @ caption), abs=2e-3)
    assert CorpusSearch.of(published).clip.dimension == 24
    assert leaked_images(published, "retrieved_set", "shapes").same == 0


def test_another_base_is_customized_on_the_same_pairs(published: Project, tmp_path: Path) -> None:
    copied = shutil.copytree(published.path.parent, tmp_path / "copied")
    project = Project.load(copied / "pipeline.yaml")
    assert survey(project, ["shapes"]).states["domain_results", "shapes/gated-image"] is State.FRESH

    project = change_pipeline(
        project, encoder={"pretrained": str(write_checkpoint(tmp_path / "base", seed=2))}
    )
    run(project, "base_checkpoint", ALL)
    states = survey(project, ["shapes"]).states
    assert states["retrieved_set", "shapes"] is states["control_set", "shapes"] is State.FRESH
    assert states["customized_checkpoint", "shapes/gated-image"] is State.DUE

    project = change_pipeline(project, retrieval_encoder=None)
    assert survey(project, ["shapes"]).states["corpus_embeddings", ALL] is State.DUE
