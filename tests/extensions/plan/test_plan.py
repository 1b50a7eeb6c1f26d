"""The plan of a project: its sums by hand, what does not fit, what was measured, and what it stays
true to.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from open_clip import get_model_config
from support.text_tower import write_text_tower_checkpoint
from support.upkeep import change_pipeline
from typer.testing import CliRunner

from react_pipeline.clip.architecture import read_config
from react_pipeline.commands.cli import app
from react_pipeline.corpus.cost import CorpusSize
from react_pipeline.extensions.demo.sources import corpus_drawings
from react_pipeline.extensions.plan.encoder_cost import EncoderCost
from react_pipeline.extensions.plan.encoding_cost import EncodingCost
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.plan.plan import plan_of
from react_pipeline.extensions.plan.step_cost import StepCost
from react_pipeline.extensions.plan.sums import START_SECONDS, Cost, Step, Sums
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store.errors import InputError

MACHINE = Machine(cores=64, memory=256 * 10**9, disk=10 * 10**12)
PREPARE, IMAGE, TEXT, FROZEN, STEPPED = 1e-3, 2e-2, 1e-2, 5e-2, 3e-2
SPLIT = StepCost(FROZEN, STEPPED, 0.0, splits=True)

pytestmark = pytest.mark.usefixtures("processor")


def steps_of(
    project: Project, rows: int | None = None, machine: Machine = MACHINE
) -> dict[str, Step]:
    return {step.stage: step for step in plan_of(project, machine, rows).steps}


def test_encoders_cost_what_their_layers_do() -> None:
    known = EncoderCost.of(get_model_config("ViT-B-32"))
    # 4.4 and 3.0 G multiplications and additions, as published for ViT-B/32 and its text tower; 151
    # M weights.
    assert (known.image / 2e9, known.text / 2e9) == pytest.approx((4.4, 3.0), abs=0.03)
    assert known.weights_bytes == pytest.approx(4 * 151e6, rel=0.01)
    resnet = EncoderCost.of(get_model_config("RN50"))
    assert (resnet.dimension, resnet.image / 2e9) == (1_024, pytest.approx(6.1, abs=0.1))


def test_the_tower_of_a_checkpoint_is_counted_and_no_other(tmp_path: Path) -> None:
    folder = write_text_tower_checkpoint(tmp_path)
    model_cfg, _ = read_config(folder)
    own, configured = EncoderCost.of(model_cfg, folder), EncoderCost.of(model_cfg)
    assert own.text < configured.text / 100 and own.image == configured.image
    towers = {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 224,
    }
    resnet = EncoderCost.of({**model_cfg, "vision_cfg": towers})
    assert resnet.image / 2e9 == pytest.approx(1.82, abs=0.02)  # as published
    unknown = {**model_cfg, "vision_cfg": {"timm_model_name": "no_such_tower", "image_size": 32}}
    assert EncoderCost.of(unknown).image == pytest.approx(
        EncoderCost.of(get_model_config("ViT-B-32")).image, rel=1e-3
    )


def test_sums_are_those_by_hand(tiny_project: Project) -> None:
    steps = steps_of(tiny_project, 1_000_000)
    embeddings = steps["corpus_embeddings"]
    assert embeddings.disk == 1_000_000 * (4 * 32 + 200)
    assert 3_600 * embeddings.cpu_hours == pytest.approx(
        1_000_000 * (PREPARE + IMAGE + TEXT) / 64 + START_SECONDS
    )
    assert embeddings.gpu_hours is None


def test_a_gpu_has_hours_of_its_own(tiny_project: Project) -> None:
    steps = steps_of(tiny_project, 10_000_000, replace(MACHINE, gpus=1))
    assert steps["corpus_embeddings"].gpu_hours


def test_what_is_computed_once_is_not_paid_at_each_step() -> None:
    encoding, pairs = EncodingCost(PREPARE, IMAGE, TEXT), 100
    kept = TrainingConfig(steps=50, batch_size=10, augmentation="none")
    once = pairs * (PREPARE + FROZEN + TEXT)
    assert SPLIT.seconds(kept, encoding, pairs, pairs) == pytest.approx(once + 500 * STEPPED)
    views = kept.model_copy(update={"augmentation": "timm", "views": 3})
    assert SPLIT.seconds(views, encoding, pairs, pairs) == pytest.approx(
        once + 2 * pairs * (PREPARE + FROZEN) + 500 * STEPPED
    )
    every_step = pairs * TEXT + 500 * (PREPARE + FROZEN + STEPPED)
    for change in ({"keep_prefix": False}, {"augmentation": "timm"}):
        assert SPLIT.seconds(
            kept.model_copy(update=change), encoding, pairs, pairs
        ) == pytest.approx(every_step)
    texts = StepCost(0, STEPPED, TEXT, splits=False)
    assert texts.seconds(kept, encoding, pairs, pairs) == pytest.approx(
        500 * (PREPARE + STEPPED + TEXT)
    )


def test_head_on_vectors_that_are_there_costs_less_than_tower(tiny_project: Project) -> None:
    def hours(method: str) -> float:
        project = change_pipeline(
            tiny_project, methods=["base", method], customization={"defaults": {"steps": 1_000}}
        )
        return steps_of(project, 1_000)["customized_checkpoint"].cpu_hours

    assert hours("linear-head") < hours("gated-image") / 2


@pytest.mark.parametrize(
    ("more", "stages"),
    [
        ({"rows": 2_000}, ("corpus_embeddings", "faiss_index")),
        ({"customization": {"defaults": {"steps": 8}}}, ("customized_checkpoint",)),
        ({"methods": ["base", "gated-image", "full"]}, ("customized_checkpoint", "domain_results")),
    ],
)
def test_more_work_takes_longer_and_more_cores_take_shorter(
    tiny_project: Project, more: dict[str, Any], stages: tuple[str, ...]
) -> None:
    project = change_pipeline(tiny_project, methods=["base", "gated-image"])
    few, slow = steps_of(project, 1_000), steps_of(project, 1_000, replace(MACHINE, cores=1))
    rows = more.pop("rows", 1_000)
    many = steps_of(change_pipeline(project, **more), rows)
    assert all(few[stage].cpu_hours < many[stage].cpu_hours for stage in stages)
    assert all(few[stage].cpu_hours <= many[stage].cpu_hours for stage in few)
    assert all(few[stage].cpu_hours <= slow[stage].cpu_hours for stage in few)


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


def test_rows_come_from_the_files_of_the_corpus(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    pd.DataFrame({"url": ["http://a"] * 70, "caption": "x"}).to_parquet(tmp_path / "a.parquet")
    found = plan_of(make_project(corpus={"kind": "urls", "urls": ["a.parquet"]}), MACHINE)
    assert (found.rows, found.steps[0].memory) == (70, 70 * 160)
    (tmp_path / "a.tsv").write_text("url\tcaption\n")
    with pytest.raises(InputError, match="--rows"):
        plan_of(make_project(corpus={"kind": "urls", "urls": ["a.tsv"]}), MACHINE)
    # The shards are of one size; a folder is listed.
    assert plan_of(make_project(), MACHINE).rows == pytest.approx(96, rel=0.1)
    (tmp_path / "pairs").mkdir()
    for number in range(5):
        (tmp_path / "pairs" / f"{number}.jpg").write_bytes(b"0" * 1_000)
    folder = plan_of(make_project(corpus={"kind": "images", "images": ["pairs"]}), MACHINE)
    assert folder.rows == 5


def test_the_demo_is_counted_before_it_is_made(make_project: Callable[..., Project]) -> None:
    plan = plan_of(make_project(corpus={"kind": "demo"}), MACHINE)
    assert plan.rows == sum(1 for _ in corpus_drawings())


def test_a_drawn_corpus_costs_the_same_once_it_is_published(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = (4_000, 0.5, 100.0)
    monkeypatch.setattr("react_pipeline.extensions.demo.corpus.drawing_cost", lambda: cost)
    monkeypatch.setattr(
        "react_pipeline.corpus.cost.fresh_or_none", lambda *_: Mock(counts={"bytes": 400_000})
    )
    monkeypatch.setattr("react_pipeline.corpus.cost.count_pairs", lambda _: 4_000)
    size = CorpusSize.of(make_project(corpus={"kind": "demo"}))
    assert size == CorpusSize(pairs=4_000, pair_bytes=100.0, draw_seconds=0.5)


def test_bytes_are_those_of_artifacts_within_two_and_half_times(
    make_project: Callable[..., Project], drawings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    for shard in sorted((drawings / "shards").iterdir()):
        shutil.unpack_archive(shard, folder)
    project = make_project(corpus={"kind": "images", "images": [str(folder)]})
    announced = steps_of(project)
    stages = ("corpus", "base_checkpoint", "faiss_index")
    for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
        run(project, stage, "all")
    measured = steps_of(project)
    ratios = {
        stage: announced[stage].disk / (measured[stage].measured_disk or 0) for stage in stages
    }
    assert all(0.4 <= ratio <= 2.5 for ratio in ratios.values()), ratios


def test_after_a_run_measured_hours_and_bytes_stand_beside_plan(
    indexed_project: Project,
) -> None:
    found = plan_of(indexed_project, MACHINE)
    assert found.rows == 96
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    steps = {step.stage: step for step in found.steps}
    assert steps["corpus_embeddings"].measured_hours == artifact.counts["seconds"] / 3_600
    assert steps["corpus_embeddings"].measured_disk == sum(
        f["bytes"] for f in artifact.manifest["files"].values()
    )
    # Stages that time nothing themselves are timed by the store.
    assert all(
        steps[stage].measured_hours is not None
        for stage in ("corpus", "base_checkpoint", "faiss_index")
    )
    assert steps["retrieved_set"].measured_hours is None


def test_other_rows_than_the_measured_are_estimated(
    indexed_project: Project,
) -> None:
    assert steps_of(indexed_project, 96)["corpus_embeddings"].measured_hours is not None
    small = replace(MACHINE, cores=1, disk=10**9)
    plan = plan_of(indexed_project, small, 400_000_000)
    assert all(step.measured_hours is step.measured_disk is None for step in plan.steps)
    problems = {problem.partition(":")[0] for problem in plan.problems}
    assert problems >= {"disk", "corpus_embeddings"}
    assert not plan_of(indexed_project, small).problems


def test_figures_of_another_encoder_are_not_shown(indexed_project: Project) -> None:
    before = steps_of(indexed_project)
    other = change_pipeline(indexed_project, encoder={"model": "RN50", "pretrained": "openai"})
    after = steps_of(other)
    assert after["faiss_index"].disk == 1_024 / 32 * before["faiss_index"].disk
    assert after["base_checkpoint"].disk > 10 * before["base_checkpoint"].disk
    assert after["corpus"].measured_hours is not None
    for stage in ("base_checkpoint", "corpus_embeddings", "faiss_index"):
        assert after[stage].measured_hours is after[stage].measured_disk is None


def test_the_command_prints_a_table_or_json(tiny_project: Project) -> None:
    command = [
        "plan",
        "--config",
        str(tiny_project.path),
        "--rows",
        "400000000",
        "--machine",
        "cores=64,memory=1G",
    ]
    (tiny_project.config.domains / "wrong.yaml").write_text("classes: []\n")
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "note: left out: " in printed.stderr and "wrong.yaml" in printed.stderr
    assert "corpus_embeddings" in printed.output
    assert "does not fit: faiss_index" in printed.output
    hours = [float(one.replace(",", "")) for one in re.findall(r"([\d,.]+) h", printed.output)]
    (total,) = re.findall(r"total .*? ([\d,.]+) h", printed.output)
    assert float(total.replace(",", "")) == pytest.approx(sum(hours) / 2, rel=0.01)
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["machine"]["cores"] == 64
    assert found["rows"] == 400_000_000
    assert [step["stage"] for step in found["steps"]][:3] == [
        "corpus",
        "base_checkpoint",
        "corpus_embeddings",
    ]


@pytest.mark.parametrize(
    "text", ["speed=3", "cores=many", "cores=0", "memory=inf", "precision=fp8"]
)
def test_figures_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--machine"):
        MACHINE.changed(text)
    assert MACHINE.changed("gpus=1, memory=1.5T").memory == 1_500 * 10**9


def test_a_stage_brings_its_own_sum_and_stops_no_other(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate(sums: Sums) -> Step:
        lines = Step(
            "lines", f"{sums.corpus.pairs} lines", memory=10**15, less_memory="fewer lines"
        )
        return sums.timed(lines, Cost(alone=3_600 * len(sums.keys["lines"])))

    def row(name: str, plan: Callable[[Sums], Step] | None) -> Stage:
        return Stage(name, "", "domain", step=Mock(), plan=plan)

    rows = [row("lines", estimate), row("broken", lambda _: 1 / 0), row("silent", None)]
    table = {**STAGES, **{one.name: one for one in rows}}
    monkeypatch.setattr("react_pipeline.stage._rows", lambda: table)
    plan = plan_of(tiny_project, MACHINE, 7)
    steps = {step.stage: step for step in plan.steps}
    assert (steps["lines"].amount, steps["lines"].cpu_hours) == ("7 lines", 2.0)
    assert steps["broken"].amount.startswith("no estimate: ZeroDivisionError")
    assert "silent" not in steps and "domain_results" in steps
    assert any(one.startswith("lines:") and "fewer lines" in one for one in plan.problems)


def test_only_what_is_searched_takes_time(make_project: Callable[..., Project]) -> None:
    def hours(**fields: str) -> float:
        project = change_pipeline(make_project(), retrieval=fields)
        return steps_of(project, 10**9)["retrieved_set"].cpu_hours

    assert hours(search="index") != hours(search="exact")
    every = [hours(choose="all", search=search) for search in ("index", "exact")]
    assert every[0] == every[1]
