"""`retrieval_encoder`: one CLIP finds the pairs, and another is customized on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_checkpoint, write_project
from safetensors.torch import load_file
from support.launch import dagster_home
from support.upkeep import change_pipeline

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import materialize, plan
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.clip.model import load
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.corpus.cost import CorpusSize
from react_pipeline.extensions.automation.survey import State, places, survey
from react_pipeline.extensions.methods.head_samples import PairVectors
from react_pipeline.extensions.pages.search import CorpusSearch, search_pairs
from react_pipeline.extensions.plan import Machine
from react_pipeline.extensions.plan.plan import Sums
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.retrieval.decontamination import leaked_images
from react_pipeline.settings.config import EmbeddingConfig
from react_pipeline.stage import ALL
from react_pipeline.store.errors import InputError

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
    table = pd.read_parquet(pairs.file("pairs.parquet")).query("mode == 't2t'")
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
    assert len(load_file(head.file("head.safetensors"))["trained"]) == 32
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


def test_a_plan_counts_each_encoder_where_it_works(
    make_project: Callable[..., Project], retrieving: Path
) -> None:
    project = make_project(retrieval_encoder={"pretrained": str(retrieving)})
    sums = Sums(project, Machine(cores=8, memory=10**11, disk=10**12), CorpusSize(100, 0, 0))
    assert (sums.retrieval.dimension, sums.encoder.dimension) == (24, 32)
    disks = {step.stage: step.disk for step in sums.steps()}
    for stage, encoder in (
        ("base_checkpoint", sums.encoder),
        ("retrieval_checkpoint", sums.retrieval),
    ):
        assert disks[stage] == encoder.weights_bytes


@pytest.mark.parametrize("two", [True, False])
def test_it_is_an_asset_only_where_it_is_configured(
    make_project: Callable[..., Project], retrieving: Path, two: bool
) -> None:
    project = make_project(retrieval_encoder={"pretrained": str(retrieving)} if two else None)
    defs = build_defs(project=ProjectResource(config_path=str(project.path)))
    encoder = "retrieval_checkpoint" if two else "base_checkpoint"
    planned = [stage for stage, _ in plan(defs, "*corpus_embeddings", ["shapes"], METHODS)]
    assert planned == ["corpus", encoder, "corpus_embeddings"]


def test_base_gives_a_head_vectors_that_corpus_would(
    retrieved_project: Project,
) -> None:
    store = retrieved_project.store
    pairs = CollectedPairs(store.current("retrieved_set", "shapes"))
    stored = PairVectors.read(pairs)
    clip = load(store.current("base_checkpoint", ALL).path)
    encoded = PairVectors.encode(
        pairs, clip, EmbeddingConfig(precision="fp32", batch_size=7, workers=0)
    )
    # Stored ones are float16.
    torch.testing.assert_close(encoded.images, stored.images, atol=2e-3, rtol=0)
    torch.testing.assert_close(encoded.captions, stored.captions, atol=2e-3, rtol=0)


def test_errors_name_the_encoder_that_is_wrong(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    project = make_project(retrieval_encoder={"pretrained": str(tmp_path / "empty")})
    with pytest.raises(InputError, match="retrieval_encoder"):
        run(project, "retrieval_checkpoint", ALL)


@pytest.mark.slow
def test_every_asset_is_made_with_two_encoders(
    make_project: Callable[..., Project], retrieving: Path, mlflow_database: Path, tmp_path: Path
) -> None:
    project = make_project(retrieval_encoder={"pretrained": str(retrieving)}, methods=METHODS)
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        summary = materialize("*", ["shapes"], config_path=project.path)
        again = materialize("*", ["shapes"], config_path=project.path)
    assert not summary.failed and not again.failed
    assert (again.built, again.reused) == (0, summary.built)
