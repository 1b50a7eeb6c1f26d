"""Two real processes of torchrun against one: the same steps, one artifact, one writer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_project
from safetensors.torch import load_file
from support.device import DEVICES, require
from support.training import train_on

from react_pipeline.extensions.methods.towers import Full
from react_pipeline.extensions.torchrun.world import Processes
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError, RetrievalError
from react_pipeline.store.store import Store
from react_pipeline.training.customization import customize
from react_pipeline.training.schedule import batch_at
from react_pipeline.training.world import World

TRAINING: dict[str, Any] = {
    "defaults": {
        "last_k_layers": 2,
        "steps": 6,
        "batch_size": 8,
        "warmup_steps": 1,
        "learning_rate": 2e-3,
        "checkpoint_every": 2,
        "held_out_fraction": 0.2,
        "workers": 0,
        "augmentation": "none",
        "evaluate_every": 3,
    },
    # The other way through everything: no kept tokens, texts that train, classes in the loss, parts
    # of a batch.
    "methods": {
        "full": {
            "augmentation": "mild",
            "class_prompt_fraction": 0.5,
            "loss": "unicl",
            "accumulation": 2,
            "learning_rate": 1e-3,
        }
    },
}
LOCAL = {"defaults": {**TRAINING["defaults"], "global_negatives": False}}

PROCESS = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from react_pipeline.clip import choose_device
from react_pipeline.extensions.torchrun.world import Processes
from react_pipeline.training.customization import customize
from react_pipeline.project.project import Project

class Recorder:
    def __init__(self): self.events = []
    def started(self, inputs, first_step): self.events.append("started")
    def stepped(self, record): self.events.append(record["step"])
    def failed(self, error): self.events.append("failed")

results = {}
for name, path, method in json.loads(sys.argv[2]):
    reported = Recorder()
    project = Project.load(path)
    world = Processes.join(choose_device(project.config.device))
    artifact = customize(project, "shapes", method, reported, world)
    results[name] = {"path": str(artifact.path), "reused": artifact.reused, "events": reported.events}
results["backend"] = dist.get_backend()
Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))
dist.destroy_process_group()
"""

KILLED_IN_A_SAVE = """
import os, signal, torch
save = torch.save
def half(content, path):
    save(content, path)
    if content.get("step") == 4:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
"""


def launched(
    directory: Path, script: str, wanted: list[tuple[str, ...]], device: str
) -> subprocess.CompletedProcess[str]:
    """Two processes of this script; NCCL takes no two on one GPU."""
    (directory / "process.py").write_text(script)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    arguments = [str(directory / "process.py"), str(directory), json.dumps(wanted)]
    return subprocess.run(
        [*torchrun, *meeting, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **hidden},
        capture_output=True,
        text=True,
        timeout=200,
    )


@dataclass(frozen=True)
class Together:
    """What two processes said and left, and the project in which one process trains the same."""

    ranks: list[dict[str, Any]]
    store: Path
    alone: Project


@pytest.fixture(scope="module", params=DEVICES)
def together(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _retrieved_store: Path,
) -> Together:
    """One launch for most tests of this file: it takes seconds to start."""
    device = require(request.param, gpus=2)
    directory = tmp_path_factory.mktemp("together")
    alone = write_project(
        directory, tiny_checkpoint, drawings, customization=TRAINING, device=device
    )
    shutil.copytree(_retrieved_store, alone.config.store)
    shutil.copytree(directory, directory / "two")
    two = directory / "two" / "pipeline.yaml"
    (directory / "local").mkdir()
    local = write_project(
        directory / "local", tiny_checkpoint, drawings, customization=LOCAL, device=device
    )
    shutil.copytree(alone.config.store, local.config.store)
    wanted = [
        ("gated", str(two), "gated-image"),
        ("full", str(two), "full"),
        ("again", str(two), "gated-image"),
        ("local", str(local.path), "gated-image"),
    ]
    done = launched(directory, PROCESS, wanted, device)
    assert done.returncode == 0, done.stderr[-4_000:]
    ranks = [json.loads((directory / f"rank{rank}.json").read_text()) for rank in range(2)]
    return Together(ranks, two.parent / "store", alone)


def artifact_at(path: str | Path) -> Artifact:
    manifest = json.loads((Path(path) / "manifest.json").read_text())
    return Artifact(Store(Path(path).parents[manifest["key"].count("/") + 3]), manifest)


def losses(path: str | Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (Path(path) / "metrics.jsonl").read_text().splitlines()
    ]


def accuracies(path: str | Path) -> list[float]:
    records = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    return [record["evaluation_top1"] for record in records if "evaluation_top1" in record]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="more than the 2 GPUs"):
        Processes.join("cuda")


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize(("name", "method"), [("gated", "gated-image"), ("full", "full")])
def test_two_processes_take_the_steps_of_one(together: Together, name: str, method: str) -> None:
    one = customize(together.alone, "shapes", method)
    two = artifact_at(together.ranks[0][name]["path"])
    assert (one.counts["processes"], two.counts["processes"]) == (1, 2)
    assert losses(two.path) == pytest.approx(losses(one.path), rel=1e-4)
    assert len(losses(two.path)) == 6
    assert accuracies(two.path) == accuracies(one.path)
    assert len(accuracies(one.path)) == 2
    assert two.fingerprint == one.fingerprint
    assert two.counts["held_out_after"] == pytest.approx(one.counts["held_out_after"])
    assert two.counts["prefix_kept"] == one.counts["prefix_kept"] == (name == "gated")
    ours, theirs = (
        load_file(artifact.path / "open_clip_model.safetensors") for artifact in (two, one)
    )
    base = load_file(
        together.alone.store.current("base_checkpoint", "all").file("open_clip_model.safetensors")
    )
    # AdamW turns rounding of gradients near 0 into steps, so single weights differ; the way taken
    # does not.
    moved = torch.cat([(theirs[key] - base.get(key, 0)).flatten() for key in theirs])
    apart = torch.cat([(theirs[key] - ours[key]).flatten() for key in theirs])
    assert apart.norm() < 0.02 * moved.norm()


@pytest.mark.slow
@pytest.mark.operations
def test_one_process_writes_the_artifact_that_all_return(together: Together) -> None:
    writer, other = together.ranks
    for name in ("gated", "full", "again", "local"):
        assert writer[name]["path"] == other[name]["path"]
        assert other[name]["events"] == []
    assert writer["gated"]["events"] == ["started", *range(6)]
    assert writer["backend"] == ("gloo" if together.alone.config.device == "cpu" else "nccl")
    published = sorted(
        path.parent.parent.name
        for path in together.store.glob("customized_checkpoint/*/*/*/manifest.json")
    )
    assert published == ["full", "gated-image"]
    assert list((together.store / ".scratch").iterdir()) == []
    files = sorted(path.name for path in Path(writer["gated"]["path"]).glob("[!.]*"))
    assert files == [
        "loss.png",
        "manifest.json",
        "metrics.jsonl",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]


@pytest.mark.slow
@pytest.mark.operations
def test_a_second_call_finds_the_artifact_in_every_process(together: Together) -> None:
    for rank in together.ranks:
        assert rank["again"]["path"] == rank["gated"]["path"]
        assert rank["again"]["events"] == []
    assert together.ranks[0]["again"]["reused"]
    assert not together.ranks[0]["gated"]["reused"]


@pytest.mark.slow
@pytest.mark.operations
def test_negatives_of_own_process_make_another_and_smaller_task(together: Together) -> None:
    local, shared = (losses(together.ranks[0][name]["path"]) for name in ("local", "gated"))
    assert len(local) == 6
    assert all(torch.isfinite(torch.tensor(local)))
    # Four candidates instead of eight.
    assert sum(local) < sum(shared)


@pytest.mark.slow
@pytest.mark.operations
def test_killed_in_a_save_it_resumes_from_the_state_before(
    tmp_path: Path, tiny_checkpoint: Path, drawings: Path, _retrieved_store: Path
) -> None:
    projects = []
    for folder in (tmp_path / "whole", tmp_path / "killed"):
        folder.mkdir()
        projects.append(write_project(folder, tiny_checkpoint, drawings, customization=TRAINING))
        shutil.copytree(_retrieved_store, projects[-1].config.store)
    whole, killed = projects
    wanted = [("full", str(killed.path), "full")]
    assert launched(tmp_path, KILLED_IN_A_SAVE + PROCESS, wanted, "cpu").returncode
    (scratch,) = (killed.config.store / ".scratch").glob("*/*")
    states = [path.name for path in sorted(scratch.glob("step-*"))]
    assert states == ["step-000000002"]
    done = launched(tmp_path, PROCESS, wanted, "cpu")
    assert done.returncode == 0, done.stderr[-4_000:]
    one = customize(whole, "shapes", "full")
    resumed = killed.store.current("customized_checkpoint", "shapes/full")
    assert resumed.counts["first_step"] == 2
    assert losses(resumed.path) == pytest.approx(losses(one.path), rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_parts_of_all_ranks_are_the_batch(size: int) -> None:
    seen = []
    for step in range(5):
        batch = batch_at(step, 40, 8, seed=0)
        parts = [World(rank, size).part(batch) for rank in range(size)]
        assert torch.equal(torch.cat(parts), batch)
        assert {len(part) for part in parts} == {8 // size}
        seen += torch.cat(parts).tolist()
    assert sorted(seen) == list(range(40))  # an epoch: every pair once


def test_one_process_alone_needs_no_group() -> None:
    world = Processes.join("cpu")
    vectors = torch.randn(3, 2, requires_grad=True)
    assert (world.size, world.is_writer) == (1, True)
    assert torch.equal(world.gather(vectors), vectors.detach())
    assert not world.gather(vectors).requires_grad
    assert world.broadcast("said") == "said"
    assert torch.equal(world.mean(vectors.sum()), vectors.sum())


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize(
    ("batch_size", "processes", "error", "text"),
    [
        (8, 3, InputError, "does not divide among 3"),
        (64, 32, RetrievalError, "too few for 32 processes"),
    ],
)
def test_a_batch_that_does_not_suit_the_processes_is_refused(
    together: Together,
    batch_size: int,
    processes: int,
    error: type[Exception],
    text: str,
    tmp_path: Path,
) -> None:
    from react_pipeline.clip.model import load
    from react_pipeline.corpus.collected import CollectedPairs

    project = together.alone
    training = project.training("shapes", "full").model_copy(update={"batch_size": batch_size})
    clip = load(project.store.current("base_checkpoint", "all").path)
    pairs = CollectedPairs(project.store.current("retrieved_set", "shapes"))
    with pytest.raises(error, match=text):
        world = World(0, processes)
        train_on(Full(), clip, pairs, project.domain("shapes"), training, tmp_path, world=world)
