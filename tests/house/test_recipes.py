"""Recipes: what is in them can be read, their sums can be made, and what they need of the web is
fetched, here from loopback.
"""

from __future__ import annotations

import hashlib
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.drawings import draw, encode
from support.web import served

from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.plan import Machine, plan_of
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


def test_the_table_of_photographs_holds_addresses_and_digests() -> None:
    pairs = pd.read_parquet(RECIPES / "photographs" / "pairs.parquet")
    assert pairs["url"].is_unique and pairs["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    places = pairs["repository"] + "/" + pairs["commit"] + "/"
    prefix = "https://raw.githubusercontent.com/"
    starts = [url.startswith(prefix + at) for url, at in zip(pairs["url"], places, strict=True)]
    assert all(starts) and not pairs["licence"].str.contains("ImageNet").any()


def test_photographs_are_retrieved_past_dead_addresses(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RECIPES / "photographs", tmp_path / "recipe")
    monkeypatch.chdir(tmp_path / "recipe")
    test_set = Path("GroceryStoreDataset/dataset/test")
    for number, place in enumerate(("Fruit/Apple/Pink-Lady", "Vegetables/Carrots")):
        (test_set / place).mkdir(parents=True)
        (test_set / place / "1.jpg").write_bytes(encode(draw("square", "red", 900 + number), "jpg"))
    runpy.run_path("evaluation_set.py")
    names = [name for name in ("apple", "carrot", "plum") for _ in range(8)]
    drawn = {f"/{n}.png": encode(draw("circle", "green", n), "png") for n in range(len(names))}
    rows = pd.DataFrame({"url": [*drawn], "caption": names})
    rows["sha256"] = [hashlib.sha256(image).hexdigest() for image in drawn.values()]
    rows.loc[1, "sha256"] = "0" * 64  # another picture stood there when the table was made
    config = yaml.safe_load(Path("pipeline.yaml").read_text())
    config["encoder"] = {"pretrained": str(tiny_checkpoint)}
    config["corpus"]["download"] |= {"allow_private_addresses": True, "retries": 0}
    # To random towers all drawings look alike.
    config["retrieval"] |= {"max_starving_fraction": 1.0, "near_duplicate_similarity": 1.01}
    Path("pipeline.yaml").write_text(yaml.safe_dump(config))
    with served({path: image for path, image in drawn.items() if path != "/0.png"}) as web:
        rows.assign(url=web.url + rows["url"]).to_parquet("pairs.parquet")
        project = Project.load("pipeline.yaml")
        for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
            run(project, stage, "all")
        images = run(project, "evaluation_set", "grocery")
        pairs = run(project, "retrieved_set", "grocery")
    assert images.counts["images"] == 2 and not images.counts.get("unknown_classes")
    assert pairs.counts["pairs"] == len(names) - 2
    assert pairs.counts["dropped"]["not_collected"] == 2
