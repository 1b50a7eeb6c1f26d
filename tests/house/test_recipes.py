"""Recipes: what is in them can be read, and their sums can be made."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import draw, encode

from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.lineage import run
from react_pipeline.project.project import Project

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = RECIPES / "imagenet-b32"


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
    counts = [len({*names}) for names in (domain.class_names, domain.prompt_names)]
    assert len(domain.classes) == 1_000 and counts == [1_000, 998]
    assert domain.evaluation is not None and domain.evaluation.dataset == "imagenet-1k"
    # Of the pairs that the authors could download.
    assert training.in_steps(8_530_639, training.batch_size).steps == 66_624
    assert (training.learning_rate, training.warmup_steps) == (5e-4, 5_000)
    assert training.last_k_layers == 6
    assert training.adam_eps == pytest.approx(1e-6 * training.processes)
    assert project.config.section(ElevaterConfig).datasets == ("imagenet-1k",)


def test_the_scripts_of_photographs_make_a_project_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RECIPES / "photographs", tmp_path / "recipe")
    monkeypatch.chdir(tmp_path / "recipe")
    test_set = Path("GroceryStoreDataset/dataset/test")
    for number, place in enumerate(("Fruit/Apple/Pink-Lady", "Vegetables/Carrots")):
        (test_set / place).mkdir(parents=True)
        (test_set / place / "1.jpg").write_bytes(encode(draw("square", "red", 900 + number), "jpg"))
    runpy.run_path("evaluation_set.py")
    project = Project.load("pipeline.yaml")
    corpus = run(project, "corpus", "all")
    images = run(project, "evaluation_set", "grocery")
    assert corpus.counts["pairs"] == len(pd.read_parquet("pairs.parquet"))
    assert images.counts["images"] == 2 and not images.counts.get("unknown_classes")
