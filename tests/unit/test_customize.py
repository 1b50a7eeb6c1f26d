from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from react_pipeline.base import publish_base
from react_pipeline.corpus import publish_corpus
from react_pipeline.customize import customize
from react_pipeline.embed import embed_corpus
from react_pipeline.errors import InputError, RetrievalError, StaleArtifact
from react_pipeline.index import build_index
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import Project
from react_pipeline.model import load
from react_pipeline.retrieve import draw_control, retrieve_pairs
from react_pipeline.training_data import TrainingPairs, augment

Make = Callable[..., Project]


def prepared(project: Project, store: Path) -> Project:
    """The project with everything up to the pairs of `shapes` published."""
    shutil.copytree(store, project.config.store, dirs_exist_ok=True)
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    draw_control(project, "shapes")
    return project


@pytest.fixture
def project(make_project: Make, _indexed_store: Path) -> Project:
    return prepared(make_project(), _indexed_store)


def losses(project: Project, method: str) -> list[float]:
    artifact = customize(project, "shapes", method)
    return [json.loads(line)["loss"] for line in artifact.file("metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["gated-image", "gated-image-control", "locked-text", "full"])
def test_each_method_trains_its_own_part_and_nothing_else(project: Project, method: str) -> None:
    artifact = customize(project, "shapes", method)
    base = load_file(project.store.current("base_checkpoint", "all").file("open_clip_model.safetensors"))
    trained = load_file(artifact.file("open_clip_model.safetensors"))
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    added = trained.keys() - base.keys()
    if method.startswith("gated-image"):
        assert changed <= {"logit_scale"}
        assert len(added) == 28
        gates = [name for name in added if "alpha" in name]
        assert all(trained[name] != 0 for name in gates)
    else:
        assert not added
        assert any(name.startswith("visual.") for name in changed)
        assert any(name.startswith("transformer.") for name in changed) == (method == "full")
    counts = artifact.counts
    assert counts["step0_max_difference"] == 0
    assert counts["trainable_parameters"] < counts["parameters"] or method == "full"
    assert counts["steps"] == 4
    load(artifact.path)


def test_a_control_trains_on_as_many_random_pairs(project: Project) -> None:
    ours, control = (customize(project, "shapes", method) for method in ("gated-image", "gated-image-control"))
    assert ours.counts["pairs"] == control.counts["pairs"] > 0
    assert set(control.parents) == {"base_checkpoint", "control_set"}


def test_the_same_inputs_give_the_same_weights(project: Project) -> None:
    first = customize(project, "shapes", "gated-image")
    weights = load_file(first.file("open_clip_model.safetensors"))
    assert customize(project, "shapes", "gated-image").reused
    shutil.rmtree(first.path)
    again = load_file(customize(project, "shapes", "gated-image").file("open_clip_model.safetensors"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_losses_fall_when_there_is_something_to_learn(make_project: Make, _indexed_store: Path) -> None:
    defaults = {"steps": 60, "learning_rate": 3e-3, "last_k_layers": 2, "batch_size": 16, "warmup_steps": 3}
    project = prepared(make_project(customization={"defaults": defaults}), _indexed_store)
    curve = losses(project, "gated-image")
    assert sum(curve[-10:]) < 0.95 * sum(curve[:10])


@pytest.mark.parametrize("fields", [{"loss": "infonce-captions"}, {"views": 3}, {"class_prompt_fraction": 1.0}])
def test_training_choices_change_the_training(
    make_project: Make, _indexed_store: Path, fields: dict[str, object]
) -> None:
    plain = prepared(make_project(), _indexed_store)
    reference = losses(plain, "gated-image")
    defaults = {"last_k_layers": 2, "steps": 4, "batch_size": 8, "warmup_steps": 1}
    changed = make_project(customization={"defaults": {**defaults, **fields}})
    other = losses(changed, "gated-image")
    assert len(other) == len(reference)
    assert other != reference


def test_gate_scale_zero_is_the_base(make_project: Make, _indexed_store: Path) -> None:
    defaults = {"last_k_layers": 2, "steps": 4, "batch_size": 8, "gate_scale": 0.0}
    project = prepared(make_project(customization={"defaults": defaults}), _indexed_store)
    clip = load(customize(project, "shapes", "gated-image").path)
    base = load(project.store.current("base_checkpoint", "all").path)
    image = base.preprocess(Image.new("RGB", (40, 40), "red"))[None]
    torch.testing.assert_close(clip.encode_images(image), base.encode_images(image))


def test_without_kept_tokens_the_losses_are_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = losses(project, "gated-image")
    shutil.rmtree(project.store.current("customized_checkpoint", "shapes/gated-image").path)
    monkeypatch.setattr("react_pipeline.training_data.MAX_TOKEN_BYTES", 0)
    assert losses(project, "gated-image") == pytest.approx(kept, rel=1e-5)


def test_starving_classes_stop_the_training(make_project: Make, _indexed_store: Path) -> None:  # FAULTS 19
    retrieval = {"min_per_class": 10_000, "near_duplicate_similarity": 1.01, "k_per_prompt": 10}
    project = prepared(make_project(retrieval=retrieval), _indexed_store)
    with pytest.raises(RetrievalError, match="circle"):
        customize(project, "shapes", "gated-image")


def test_stale_pairs_are_refused_by_name(make_project: Make, _indexed_store: Path) -> None:  # FAULTS 6
    prepared(make_project(), _indexed_store)
    changed = make_project(retrieval={"k_per_prompt": 3, "near_duplicate_similarity": 1.01})
    with pytest.raises(StaleArtifact, match="retrieved_set.*k_per_prompt"):
        customize(changed, "shapes", "gated-image")


def test_an_unknown_method_is_told(project: Project) -> None:
    with pytest.raises(InputError, match="gated-image"):
        customize(project, "shapes", "gated-text")


def test_augmented_views_are_fixed_and_view_zero_is_the_image(project: Project, tiny_checkpoint: Path) -> None:
    pairs = project.store.current("retrieved_set", "shapes")
    preprocess = load(tiny_checkpoint).preprocess
    first, second = (TrainingPairs(pairs, preprocess, seed=0) for _ in range(2))
    assert torch.equal(first.image(0, 2), second.image(0, 2))
    assert not torch.equal(first.image(0, 2), first.image(0, 1))
    image = Image.new("RGB", (20, 30), "red")
    assert augment(image, np.random.default_rng(0)).size == (20, 30)
