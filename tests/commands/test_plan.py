"""The plan of a project: its sums by hand, what does not fit, and what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from open_clip import get_model_config
from support_text_tower import write_text_tower_checkpoint
from support_upkeep import change_pipeline
from typer.testing import CliRunner

from react_pipeline.clip.architecture import read_config
from react_pipeline.commands.cli import app
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError
from react_pipeline.workload.machine import Machine
from react_pipeline.workload.plan import plan_of
from react_pipeline.workload.rates import EncoderCost, encoding_hours

MACHINE = Machine(cores=64, memory=256 * 10**9, disk=10 * 10**12)
# Multiplications and additions: layers and attention of each tower, cutting 4 patches of 16 px, and both projections.
TINY_IMAGE = 2 * (2 * 5 * (12 * 32**2 + 2 * 5 * 32) + 4 * 3 * 16**2 * 32 + 32**2)
TINY_TEXT = 2 * (1 * 77 * (12 * 32**2 + 2 * 77 * 32) + 32**2)


def test_encoders_cost_what_their_layers_do() -> None:
    known = EncoderCost.of(get_model_config("ViT-B-32"))
    # 4.4 and 3.0 G multiplications and additions, as published for ViT-B/32 and its text tower; 151 M weights.
    assert (known.image / 2e9, known.text / 2e9) == pytest.approx((4.4, 3.0), abs=0.03)
    assert known.weights_bytes == pytest.approx(4 * 151e6, rel=0.01)
    hours = encoding_hours(1_500 * (known.image + known.text), cores=1, gpus=1)
    assert hours is not None and 3_600 * hours == pytest.approx(1, rel=1e-3)
    resnet = EncoderCost.of(get_model_config("RN50"))
    assert (resnet.dimension, resnet.image / 2e9) == (1_024, pytest.approx(6.1, abs=0.1))


def test_the_tower_of_a_checkpoint_is_counted_and_no_other(tmp_path: Path) -> None:
    folder = write_text_tower_checkpoint(tmp_path)
    model_cfg, _ = read_config(folder)
    own, configured = EncoderCost.of(model_cfg, folder), EncoderCost.of(model_cfg)
    assert own.text < configured.text / 100 and own.image == configured.image
    towers = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    assert EncoderCost.of({**model_cfg, "vision_cfg": towers}).image / 2e9 == pytest.approx(
        1.82, abs=0.02
    )  # as published
    unknown = {**model_cfg, "vision_cfg": {"timm_model_name": "no_such_tower", "image_size": 32}}
    assert EncoderCost.of(unknown).image == pytest.approx(EncoderCost.of(get_model_config("ViT-B-32")).image, rel=1e-3)


def test_sums_are_those_by_hand(tiny_project: Project) -> None:
    steps = {step.stage: step for step in plan_of(tiny_project, MACHINE, 1_000_000).steps}
    embeddings = steps["corpus_embeddings"]
    assert embeddings.disk == 1_000_000 * (4 * 32 + 200)
    assert embeddings.operations == pytest.approx(1_000_000 * (TINY_IMAGE + TINY_TEXT))
    assert embeddings.gpu_hours is embeddings.spark_hours is None
    # 4 classes with a synonym x 2 templates, and 4 x 1, in two modes: 2 x 14 x 2 products of 32 numbers a row.
    assert steps["retrieved_set"].operations == 2.0 * 2 * (5 * 2 + 4) * 1_000_000 * 32
    searches = [part.partition(" (")[0] for part in steps["retrieved_set"].search.split("; ")]
    assert searches == ["colours: exact", "shapes: exact"]
    assert steps["customized_checkpoint"].operations == pytest.approx(
        3 * 4 * 8 * 2 * len([m for m in tiny_project.config.methods if m != "base"]) * (TINY_IMAGE + TINY_TEXT)
    )


def test_a_gpu_and_workers_have_hours_of_their_own(tiny_project: Project) -> None:
    steps = plan_of(tiny_project, replace(MACHINE, gpus=1, workers=4), 10_000_000).steps
    embedded = next(step for step in steps if step.stage == "corpus_embeddings")
    assert embedded.cpu_hours and embedded.gpu_hours and embedded.spark_hours
    assert embedded.spark_hours < embedded.cpu_hours


@pytest.mark.parametrize(
    ("changes", "rows", "machine", "expected"),
    [
        ({"index": {"key": "Flat"}}, 400_000_000, replace(MACHINE, memory=10**9), "index.key"),
        ({}, 400_000_000, replace(MACHINE, disk=10**9), "disk: "),
        ({}, 10**13, replace(MACHINE, cores=1, disk=10**18), "corpus_embeddings: .* days"),
    ],
)
def test_what_does_not_fit_is_named_with_the_setting_that_helps(
    tiny_project: Project, changes: dict[str, object], rows: int, machine: Machine, expected: str
) -> None:
    found = plan_of(change_pipeline(tiny_project, **changes), machine, rows)
    assert any(re.search(expected, problem) for problem in found.problems), found.problems
    assert not plan_of(tiny_project, MACHINE, 1_000).problems


def test_rows_come_from_the_tables_of_urls(make_project: Callable[..., Project], tmp_path: Path) -> None:
    pd.DataFrame({"url": ["http://a"] * 70, "caption": "x"}).to_parquet(tmp_path / "a.parquet")
    project = make_project(corpus={"kind": "urls", "shards": [], "urls": ["a.parquet"]})
    found = plan_of(project, MACHINE)
    assert (found.rows, found.steps[0].memory) == (70, 70 * 160)
    (tmp_path / "a.tsv").write_text("url\tcaption\n")
    with pytest.raises(InputError, match="--rows"):
        plan_of(make_project(corpus={"kind": "urls", "shards": [], "urls": ["a.tsv"]}), MACHINE)


def test_after_a_run_measured_hours_and_bytes_stand_beside_the_plan(indexed_project: Project) -> None:
    found = plan_of(indexed_project, MACHINE)
    assert found.rows == 96
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    steps = {step.stage: step for step in found.steps}
    assert steps["corpus_embeddings"].measured_hours == artifact.counts["seconds"] / 3_600
    assert steps["corpus_embeddings"].measured_disk == sum(f["bytes"] for f in artifact.manifest["files"].values())
    assert steps["retrieved_set"].measured_hours is None


def test_the_command_prints_a_table_or_json(tiny_project: Project) -> None:
    command = ["plan", "--config", str(tiny_project.path), "--rows", "400000000", "--machine", "cores=64,memory=1G"]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "corpus_embeddings" in printed.output
    assert "does not fit: faiss_index" in printed.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert found["machine"]["cores"] == 64
    assert found["rows"] == 400_000_000
    assert [step["stage"] for step in found["steps"]][:3] == ["corpus", "corpus_embeddings", "faiss_index"]


@pytest.mark.parametrize("text", ["speed=3", "cores=many", "cores=0", "memory=inf", "precision=fp8"])
def test_figures_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--machine"):
        MACHINE.changed(text)
    assert MACHINE.changed("memory=1.5T, precision=fp32").memory == 1_500 * 10**9
