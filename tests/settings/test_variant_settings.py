"""Variants of methods and seeds: which methods a project has, and how each is trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.upkeep import edit_domain

from react_pipeline.project import identity
from react_pipeline.project.project import Project
from react_pipeline.settings.methods import METHODS, first_seed
from react_pipeline.store.errors import InputError

STRONG = {"strong": {"method": "gated-image", "learning_rate": 3e-3}}


def test_a_variant_and_its_control_are_methods(make_project: Callable[..., Project]) -> None:
    config = make_project(variants=STRONG).config
    assert config.methods == (
        "base",
        "gated-image",
        "gated-image-control",
        "strong",
        "strong-control",
    )
    assert config.all_methods["strong-control"].pairs == "control_set"
    assert config.all_methods["strong"].pairs == "retrieved_set"
    assert {"strong", "gated-image"} <= set(config.candidates)
    assert "strong-control" not in config.candidates
    # Neither is a method of another project.
    none = make_project()
    assert none.config.all_methods is METHODS and "strong" not in METHODS
    with pytest.raises(InputError, match="unknown method 'strong'"):
        none.training("shapes", "strong")


def test_each_method_has_each_further_seed(make_project: Callable[..., Project]) -> None:
    project = make_project(variants=STRONG, seeds=[4, 1], methods=["base", "gated-image", "strong"])
    seeds = {
        name: project.training("shapes", name).seed
        for name in project.config.methods
        if name != "base"
    }
    assert seeds == {"gated-image": 4, "strong": 4, "gated-image-seed1": 1, "strong-seed1": 1}
    assert project.seed("shapes") == 4
    assert not [name for name in project.config.candidates if first_seed(name) != name]


def test_fields_of_a_variant_win_over_all_others(make_project: Callable[..., Project]) -> None:
    customization = {"methods": {"gated-image": {"learning_rate": 1e-4, "weight_decay": 0.5}}}
    project = make_project(variants=STRONG, customization=customization)
    of_domain = {"learning_rate": 1e-2, "adam_eps": 1e-3}
    edit_domain(project, "shapes", customization=of_domain)
    for name in ("strong", "strong-control"):
        training = project.training("shapes", name)
        assert (training.learning_rate, training.weight_decay) == (3e-3, 0.5)
        assert (training.adam_eps, training.steps) == (1e-3, 4)
    assert project.training("shapes", "gated-image-control").learning_rate == 1e-2
    of_pipeline = project.config.customization.resolve
    assert of_pipeline("gated-image").learning_rate == 1e-4
    assert (of_pipeline("locked-text").learning_rate, of_pipeline("locked-text").steps) == (5e-5, 4)


def test_nothing_is_identified_otherwise_without_them(make_project: Callable[..., Project]) -> None:
    plain = make_project()
    key = "shapes/gated-image"
    trained = identity.customized_checkpoint(plain, key)
    drawn = identity.control_set(plain, "shapes")
    more = make_project(variants=STRONG, seeds=[0, 1])
    assert identity.customized_checkpoint(more, key) == trained
    assert identity.control_set(more, "shapes") == {**drawn, "further_seeds": [1]}
    one = make_project(seeds=[0])
    assert identity.control_set(one, "shapes") == drawn
