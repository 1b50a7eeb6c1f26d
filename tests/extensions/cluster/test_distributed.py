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
from support.pretended_gpu import pretended_gpu
from support.training import FIELDS, losses

from react_pipeline.extensions.cluster.world import Processes
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError
from react_pipeline.store.store import Store
from react_pipeline.training.customization import customize

TRAINING: dict[str, Any] = {
    "defaults": {
        **{**FIELDS, "steps": 6, "learning_rate": 2e-3},
        "held_out_fraction": 0.2,
    },
    # The other way through everything: no kept tokens, texts that train, classes in the loss, parts
    # of a batch.
    "methods": {
        "full": {
            **{"augmentation": "timm", "loss": "unicl", "accumulation": 2},
            "learning_rate": 1e-3,
        }
    },
}

PROCESS = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from react_pipeline.clip import choose_device
from react_pipeline.extensions.cluster.world import Processes
from react_pipeline.training import TrainingObserver, customize
from react_pipeline.project.project import Project

class Recorder(TrainingObserver):
    def __init__(self): self.events = []
    def started(self, inputs, first_step): self.events.append("started")
    def stepped(self, record): self.events.append(record["step"])

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
        timeout=900,
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
    wanted = [
        ("gated", str(two), "gated-image"),
        ("full", str(two), "full"),
        ("again", str(two), "gated-image"),
    ]
    done = launched(directory, PROCESS, wanted, device)
    assert done.returncode == 0, done.stderr[-4_000:]
    ranks = [json.loads((directory / f"rank{rank}.json").read_text()) for rank in range(2)]
    return Together(ranks, two.parent / "store", alone)


def artifact_at(path: str | Path) -> Artifact:
    manifest = json.loads((Path(path) / "manifest.json").read_text())
    return Artifact(Store(Path(path).parents[manifest["key"].count("/") + 3]), manifest)


@pytest.mark.parametrize("rank", [1, 2])
def test_each_process_takes_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    joined: dict[str, Any] = {}
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", str(rank))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **how: joined.update(how)
    )
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    with pretended_gpu(), monkeypatch.context() as two:
        two.setattr(torch.cuda, "device_count", lambda: 2)
        if rank == 2:
            with pytest.raises(InputError, match="more than the 2 GPUs"):
                Processes.join("cuda")
            return
        assert Processes.join("cuda").device == "cuda:1"
    assert joined["device_id"] == torch.device("cuda:1")
    assert joined["timeout"].total_seconds() == 3_600


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize(("name", "method"), [("gated", "gated-image"), ("full", "full")])
def test_two_processes_take_the_steps_of_one(together: Together, name: str, method: str) -> None:
    one = customize(together.alone, "shapes", method)
    two = artifact_at(together.ranks[0][name]["path"])
    assert (one.counts["processes"], two.counts["processes"]) == (1, 2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(two)) == 6
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
    for name in ("gated", "full", "again"):
        assert writer[name]["path"] == other[name]["path"]
        assert other[name]["events"] == []
    assert writer["gated"]["events"] == ["started", *range(6)]
    # A second call finds the artifact.
    assert writer["again"]["path"] == writer["gated"]["path"]
    assert writer["again"]["events"] == []
    assert (writer["gated"]["reused"], writer["again"]["reused"]) == (False, True)
    assert writer["backend"] == ("gloo" if together.alone.config.device == "cpu" else "nccl")
    published = sorted(
        path.parent.parent.name
        for path in together.store.glob("customized_checkpoint/*/*/*/manifest.json")
    )
    assert published == ["full", "gated-image"]
    assert list((together.store / ".scratch").iterdir()) == []
    files = sorted(path.name for path in Path(writer["gated"]["path"]).glob("[!.]*"))
    assert files == [
        "manifest.json",
        "metrics.jsonl",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]


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
    assert losses(resumed) == pytest.approx(losses(one), rel=1e-4)
