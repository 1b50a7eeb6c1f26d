"""The plan of a project: its sums by hand, what does not fit, and what it stays true to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.methods import model_method
from support.pretended_gpu import pretended_gpu
from support.upkeep import change_pipeline
from typer.testing import CliRunner

from react_pipeline.clip import read_config
from react_pipeline.commands.cli import app
from react_pipeline.extensions.plan import Machine, make_plan
from react_pipeline.extensions.plan.encoder_cost import (
    core_seconds,
    encoder_cost,
    time_encoder,
)
from react_pipeline.extensions.plan.plan import START_SECONDS, Step, Work
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError
from react_pipeline.training import customize

MACHINE = Machine(cores=64, memory=256 * 10**9, disk=10 * 10**12)
PREPARE, IMAGE, TEXT = 1e-3, 2e-2, 1e-2

pytestmark = pytest.mark.usefixtures("processor")


def steps_of(
    project: Project, rows: int | None = None, machine: Machine = MACHINE
) -> dict[str, Step]:
    return {step.stage: step for step in make_plan(project, machine, rows).steps}


def test_encoders_have_the_published_weights(tiny_project: Project) -> None:
    for name, dimension, weights in (("ViT-B-32", 512, 151e6), ("RN50", 1_024, 102e6)):
        project = change_pipeline(tiny_project, encoder={"model": name, "pretrained": "openai"})
        cost = encoder_cost(project, project.config.encoder, "base_checkpoint")
        assert cost.dimension == dimension
        assert cost.weights_bytes == pytest.approx(4 * weights, rel=0.01)


def test_sums_are_those_by_hand(tiny_project: Project) -> None:
    steps = steps_of(tiny_project, 1_000_000)
    embeddings = steps["corpus_embeddings"]
    assert embeddings.work.disk == 1_000_000 * (4 * 32 + 200)
    assert 3_600 * embeddings.cpu_hours == pytest.approx(
        1_000_000 * (PREPARE + IMAGE + TEXT) / 64 + START_SECONDS
    )
    assert embeddings.gpu_hours is None


def test_a_head_learns_from_vectors_that_are_there(tiny_project: Project) -> None:
    project = change_pipeline(tiny_project, methods=["base", "gda"])
    work = steps_of(project, 1_000)["customized_checkpoint"].work
    assert (work.images, work.passes, work.disk, work.batch) == (0, 0, 0, None)


@pytest.mark.parametrize(("layout", "sides"), [("clip-retrieval", 0), ("datacomp-b32", 2)])
def test_linked_vectors_take_no_disk(
    make_project: Callable[..., Project], layout: str, sides: int
) -> None:
    corpus = {"kind": "embeddings", "embeddings": "laion", "layout": layout}
    embeddings = steps_of(make_project(corpus=corpus), 1_000)["corpus_embeddings"]
    assert embeddings.work.disk == 1_000 * (2 * sides * 32 + 200)
    ready = make_project(corpus=corpus | {"indices": "indices"})
    assert steps_of(ready, 1_000)["faiss_index"].work == Work("ready")


@pytest.mark.parametrize(
    ("more", "stage"),
    [
        ({"index": {"recall_queries": 10_000}}, "faiss_index"),
        ({"customization": {"defaults": {"steps": 8}}}, "customized_checkpoint"),
        ({"methods": ["base", "gated-image", "full"]}, "domain_results"),
    ],
)
def test_more_work_takes_longer(tiny_project: Project, more: dict[str, Any], stage: str) -> None:
    project = change_pipeline(tiny_project, methods=["base", "gated-image"])
    few = steps_of(project, 1_000)
    slow = steps_of(project, 1_000, replace(MACHINE, cores=1))
    assert all(few[name].cpu_hours <= slow[name].cpu_hours for name in few)
    assert few[stage].cpu_hours < steps_of(change_pipeline(project, **more), 1_000)[stage].cpu_hours


@pytest.mark.parametrize(
    ("changes", "machine", "expected"),
    [
        ({"index": {"key": "Flat"}}, replace(MACHINE, memory=10**9), "faiss_index: "),
        ({}, replace(MACHINE, disk=10**9), "disk: "),
    ],
)
def test_what_does_not_fit_is_named_with_the_setting_that_helps(
    tiny_project: Project, changes: dict[str, object], machine: Machine, expected: str
) -> None:
    found = make_plan(change_pipeline(tiny_project, **changes), machine, 400_000_000)
    assert expected in "\n".join(found.problems)
    assert not make_plan(tiny_project, MACHINE, 1_000).problems


def test_rows_come_from_the_files_of_the_corpus(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    pd.DataFrame({"url": ["http://a"] * 70, "caption": "x"}).to_parquet(tmp_path / "a.parquet")
    found = make_plan(make_project(corpus={"kind": "urls", "urls": ["a.parquet"]}), MACHINE)
    assert (found.rows, found.steps[0].memory) == (70, 70 * 160)
    (tmp_path / "a.tsv").write_text("url\tcaption\n")
    with pytest.raises(InputError, match="--rows"):
        make_plan(make_project(corpus={"kind": "urls", "urls": ["a.tsv"]}), MACHINE)
    # The shards are of one size; a folder is listed.
    assert make_plan(make_project(), MACHINE).rows == pytest.approx(96, rel=0.1)
    (tmp_path / "pairs").mkdir()
    for number in range(5):
        (tmp_path / "pairs" / f"{number}.jpg").write_bytes(b"0" * 1_000)
    folder = make_plan(make_project(corpus={"kind": "images", "images": ["pairs"]}), MACHINE)
    assert folder.rows == 5


def test_bytes_are_those_of_artifacts_within_two_and_half_times(
    make_project: Callable[..., Project], drawings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    for shard in sorted((drawings / "shards").iterdir()):
        shutil.unpack_archive(shard, folder)
    project = make_project(corpus={"kind": "images", "images": [str(folder)]})
    announced = steps_of(project)
    stages = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index")
    for stage in stages:
        files = run(project, stage, "all").manifest["files"].values()
        ratio = announced[stage].work.disk / sum(file["bytes"] for file in files)
        assert 0.4 <= ratio <= 2.5, stage
    steps = steps_of(project)
    assert {*stages} == {stage for stage, step in steps.items() if step.built}
    room = int(sum(step.work.disk for step in steps.values() if not step.built)) + 1
    assert not make_plan(project, replace(MACHINE, disk=room)).problems  # what is built is there


def test_the_command_prints_a_table(tiny_project: Project) -> None:
    options = "--rows 400000000 --machine cores=64,memory=1G"
    command = ["plan", "--config", str(tiny_project.path), *options.split()]
    (tiny_project.config.domains / "wrong.yaml").write_text("classes: []\n")
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "note: left out: " in printed.stderr and "wrong.yaml" in printed.stderr
    assert "corpus_embeddings" in printed.output and "total" in printed.output
    assert "does not fit: faiss_index" in printed.output


def test_batches_that_no_card_holds_are_named_with_what_fits(tiny_project: Project) -> None:
    project = change_pipeline(tiny_project, methods=["base", "gated-image"])
    card = replace(MACHINE, gpus=1, card=10**7)
    (embedding,) = make_plan(project, card, 1_000).problems
    *_, training = make_plan(project, replace(card, card=10**5), 1_000).problems
    assert re.match(r"corpus_embeddings: .* 32 rows .* at most \d+ fit,.*`embedding.b", embedding)
    assert re.match(r"customized_checkpoint: .* rows at once.*`customization.b", training)
    few = change_pipeline(project, embedding={"batch_size": 2})
    smaller, larger = (steps_of(one, 1_000, card)["corpus_embeddings"] for one in (few, project))
    assert smaller.memory < larger.memory
    for machine in (replace(card, card=10**10), replace(card, card=0), MACHINE):
        assert not make_plan(project, machine, 1_000).problems


def test_bytes_of_a_pair_are_those_of_the_training(prepare: Callable[..., Project]) -> None:
    project = prepare(precision="fp32", augmentation="timm")
    counted = customize(project, "shapes", "gated-image").counts["pair_bytes"]
    cost = encoder_cost(project, project.config.encoder, "base_checkpoint")
    training = project.training("shapes", "gated-image")
    batch = cost.batch(8, "fp32", model_method("gated-image"), training)
    assert batch.row_bytes == pytest.approx(counted, rel=0.15)


def test_cards_unlike_the_first_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pretended_gpu(), monkeypatch.context() as three:
        three.setattr(torch.cuda, "device_count", lambda: 3)
        three.setattr(torch.cuda, "get_device_name", lambda card=0: "ab"[card == 2])
        here = Machine.here(tmp_path)
        assert (here.gpus, here.card, Machine.here(tmp_path, "cpu").gpus) == (2, 1 << 34, 0)


def test_figures_that_are_none_are_refused() -> None:
    for text in ("speed=3", "cores=many", "cores=0", "memory=inf", "precision=fp8"):
        with pytest.raises(InputError, match="--machine"):
            MACHINE.changed(text)
    assert MACHINE.changed("gpus=1, memory=1.5T").memory == 1_500 * 10**9


def test_encoding_takes_time_on_one_thread(tiny_checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    assert min(time_encoder((*read_config(tiny_checkpoint), tiny_checkpoint))) > 0
    assert torch.get_num_threads() == threads
    counts: list[int] = []
    core_seconds(counts.append, 40, 16)  # a shorter batch costs as much as one of 16
    assert counts == [16, 16, 32]
