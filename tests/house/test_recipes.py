"""Recipes: what is in them can be read, and its sums can be made."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.plan.plan import plan_of
from react_pipeline.project.project import Project

RECIPE = Path(__file__).parents[2] / "recipes" / "imagenet-b32"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(RECIPE, tmp_path / "recipe")
    (tmp_path / "recipe" / "data").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    runpy.run_path("domain.py")
    return tmp_path / "recipe" / "pipeline.yaml"


def test_the_recipe_is_a_project_that_takes_the_papers_steps(recipe: Path) -> None:
    project = Project.load(recipe)
    training = project.training("imagenet", "gated-image")
    domain = project.domain("imagenet")
    assert (len(domain.classes), len(set(domain.class_names)), len(set(domain.prompt_names))) == (
        1_000,
        1_000,
        998,
    )
    assert domain.evaluation is not None and domain.evaluation.dataset == "imagenet-1k"
    # Of the pairs that the authors could download.
    assert training.in_steps(8_530_639, training.batch_size).steps == 66_624
    assert (training.learning_rate, training.warmup_steps, training.last_k_layers) == (
        5e-4,
        5_000,
        6,
    )
    assert training.adam_eps == pytest.approx(1e-6 * training.processes)
    assert project.config.section(ElevaterConfig).datasets == ("imagenet-1k",)


@pytest.mark.usefixtures("processor")
def test_its_plan_has_hours_and_bytes_for_every_step(recipe: Path) -> None:
    machine = Machine.here(recipe.parent).changed("cores=96,memory=512G,disk=4T,gpus=8")
    plan = plan_of(Project.load(recipe), machine, 10_000_000)
    steps = {step.stage: step for step in plan.steps}
    assert steps["customized_checkpoint"].gpu_hours and steps["corpus"].cpu_hours
    assert steps["retrieved_set"].disk > 1e11
    assert steps["customized_checkpoint"].amount.startswith(f"{2 * 32 * 10_000_000:,} images")
