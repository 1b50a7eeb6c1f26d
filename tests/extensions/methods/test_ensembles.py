"""Ensembles: the scores of two methods, added, wherever one method is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.customized import customized

from react_pipeline import Classifier
from react_pipeline.clip.classifier import load_classifier
from react_pipeline.evaluation.domain_results import evaluate
from react_pipeline.extensions.automation.survey import places, survey
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.methods.joining import best_weight
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project.project import Project
from react_pipeline.settings.methods import METHODS
from react_pipeline.store.errors import ConfigError, InputError, StaleArtifact
from react_pipeline.training.customization import customize

BOTH = {"both": {"method": "ensemble", "of": ["gated-image", "gda"]}}
HEADS = {"heads": {"method": "ensemble", "of": ["ncm", "gda"]}}


def with_variants(project: Project, variants: dict[str, Any], **fields: Any) -> Project:
    """The same project with variants in its configuration."""
    import yaml

    raw = yaml.safe_load(project.path.read_text())
    project.path.write_text(yaml.safe_dump({**raw, "variants": variants, **fields}))
    return Project.load(project.path)


def scores_of(project: Project, method: str, images: torch.Tensor) -> torch.Tensor:
    """Of images (B, 3, H, W) by the published checkpoint of a method."""
    checkpoint = project.store.current("customized_checkpoint", f"shapes/{method}")
    base = project.store.current("base_checkpoint", "all")
    clip, head = load_classifier(checkpoint, base, project.domain("shapes"), "cpu")
    return head.scores(clip.encode_images(images))


@pytest.mark.parametrize(
    ("variants", "first"), [(BOTH, "gated-image"), (HEADS, "ncm")], ids=["towers", "heads"]
)
def test_the_scores_of_both_are_added(
    retrieved_project: Project, variants: dict[str, Any], first: str
) -> None:
    project = with_variants(retrieved_project, variants)
    (name,) = variants
    for member in (first, "gda"):
        customize(project, "shapes", member)
    checkpoint = customize(project, "shapes", name)
    weights = json.loads(checkpoint.file("head.json").read_text())["of"]
    assert list(weights) == [first, "gda"] and weights[first] == checkpoint.counts["weight"]
    images = torch.randn(5, 3, 32, 32)
    expected = sum(at * scores_of(project, one, images) for one, at in weights.items())
    torch.testing.assert_close(scores_of(project, name, images), expected, rtol=1e-4, atol=1e-4)
    # Two heads need no second tower.
    has_towers = "open_clip_model.safetensors" in checkpoint.manifest["files"]
    assert has_towers == (name == "both")
    assert evaluate(project, "shapes", name).counts["n"] > 0
    assert Classifier.load("shapes", name, config=project.path).predict([]) == []


def test_an_exported_ensemble_gives_the_same_scores(
    retrieved_project: Project, tmp_path: Path
) -> None:
    project = with_variants(retrieved_project, BOTH)
    for name in ("gated-image", "gda"):
        customized(project, name)
    customize(project, "shapes", "both")
    folder = export(project, "shapes", "both", tmp_path / "exported", formats=["onnx"])
    classifier = Classifier.load(folder)
    images = torch.randn(3, 3, 32, 32)
    ours = classifier.head.scores(classifier.clip.encode_images(images))
    torch.testing.assert_close(ours, scores_of(project, "both", images))
    assert "ensemble" in (folder / "README.md").read_text()  # plain open_clip cannot load it
    assert load_file(folder / "head.safetensors")["head"].shape[0] == 2 * 32


def test_an_ensemble_is_stale_with_its_members(retrieved_project: Project) -> None:
    project = with_variants(retrieved_project, HEADS)
    for member in ("ncm", "gda"):
        customize(project, "shapes", member)
    made = customize(project, "shapes", "heads")
    assert fresh(project, "customized_checkpoint", "shapes/heads").fingerprint == made.fingerprint
    changed = with_variants(
        project, HEADS, customization={"methods": {"ncm": {"interpolation": 0.25}}}
    )
    with pytest.raises(StaleArtifact, match="shapes/ncm"):
        fresh(changed, "customized_checkpoint", "shapes/heads")
    customize(changed, "shapes", "ncm")
    with pytest.raises(StaleArtifact, match="from `ncm`"):
        fresh(changed, "customized_checkpoint", "shapes/heads")


def test_without_held_out_pairs_both_count_the_same(retrieved_project: Project) -> None:
    nothing = {"defaults": {"held_out_fraction": 0}}
    project = with_variants(retrieved_project, HEADS, customization=nothing)
    for member, interpolation in (("ncm", 0.5), ("gda", 0.01)):
        assert customize(project, "shapes", member).counts["interpolation"] == interpolation
    counts = customize(project, "shapes", "heads").counts
    assert (counts["held_out_pairs"], counts["weight"]) == (0, 0.5)


def test_members_come_before_an_ensemble(retrieved_project: Project) -> None:
    project = with_variants(retrieved_project, HEADS, methods=["base", "heads", "heads-control"])
    chosen = ("base", "ncm", "gda", "ncm-control", "gda-control", "heads", "heads-control")
    assert project.config.methods == chosen
    kept_up = [key for stage, key in places(project, ["shapes"]) if stage == "domain_results"]
    assert kept_up[-2:] == ["shapes/heads", "shapes/heads-control"]
    states = survey(project, ["shapes"]).states
    place = "customized_checkpoint", "shapes/heads"
    assert states[place] == "waiting" and states["customized_checkpoint", "shapes/gda"] == "due"


def test_each_further_seed_joins_members_of_its_seed(make_project: Callable[..., Project]) -> None:
    config = make_project(variants=HEADS, seeds=[0, 3], methods=["base", "heads"]).config
    table = config.all_methods
    assert table["heads-seed3"].of == ("ncm-seed3", "gda-seed3")
    assert table["heads-seed3-control"].of == ("ncm-seed3-control", "gda-seed3-control")
    assert {"ncm-seed3", "gda-seed3", "heads-seed3"} <= {*config.methods}


def test_an_ensemble_has_the_further_parents_of_its_members(
    make_project: Callable[..., Project],
) -> None:
    variants = {"few": {"method": "ensemble", "of": ["swat", "gda"]}}
    config = make_project(variants=variants).config
    assert config.all_methods["few"].parents == ("few_shot_set",)
    assert config.all_methods["few-control"].parents == ("few_shot_set",)


@pytest.mark.parametrize(
    ("scores", "images", "weight"),
    [
        ({}, 0, 0.5),
        ({0.0: 0.2, 0.5: 0.8, 1.0: 0.1}, 100, 0.5),
        ({0.0: 0.1, 0.5: 0.5, 1.0: 0.9}, 100, 1.0),
        ({0.2: 0.80, 0.4: 0.79, 0.9: 0.1}, 100, 0.4),
    ],
)
def test_a_weight_near_the_middle_wins_what_chance_may_decide(
    scores: dict[float, float], images: int, weight: float
) -> None:
    assert best_weight(scores, images) == weight


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"methods": ["base", "ensemble"]}, "methods", "`variants`"),
        ({"variants": {"a": {"method": "ensemble"}}}, "variants", "two different"),
        ({"variants": {"a": {"method": "ensemble", "of": ["gda"]}}}, "variants", "two different"),
        (
            {"variants": {"a": {"method": "ensemble", "of": ["gda", "gda"]}}},
            "variants",
            "two different",
        ),
        (
            {"variants": {"a": {"method": "ensemble", "of": ["gda", "ncmm"]}}},
            "variants",
            "did you mean ncm?",
        ),
        ({"variants": {"a": {"method": "gda", "of": ["gda", "ncm"]}}}, "variants", "does nothing"),
        (
            {"variants": {**HEADS, "a": {"method": "ensemble", "of": ["heads", "ncm"]}}},
            "variants",
            "'heads'",
        ),
        ({"variants": {"a": {"method": "ensemble", "of": ["base", "ncm"]}}}, "variants", "'base'"),
    ],
)
def test_what_cannot_be_joined_is_named(
    make_project: Callable[..., Project], fields: dict[str, Any], field: str, word: str
) -> None:
    with pytest.raises(ConfigError) as error:
        make_project(**fields)
    (problem,) = error.value.problems
    assert problem.field == field and word in problem.message


def test_a_bare_ensemble_is_refused_by_its_training(retrieved_project: Project) -> None:
    assert not METHODS["ensemble"].needs_nothing
    with pytest.raises(InputError, match="two methods"):
        customize(retrieved_project, "shapes", "ensemble")


def test_fingerprints_of_other_methods_stay(retrieved_project: Project) -> None:
    before = resolve(retrieved_project, "customized_checkpoint", "shapes/gda")
    project = with_variants(retrieved_project, BOTH)
    after = resolve(project, "customized_checkpoint", "shapes/gda")
    assert replace(after, parents={}).fingerprint == replace(before, parents={}).fingerprint
