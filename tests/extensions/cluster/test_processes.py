from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import psutil
import pytest
import yaml
from conftest import REPOSITORY
from mlflow import MlflowClient
from support.launch import dagster_home
from support.services import free_port
from support.tracking import runs_of
from support.training import losses

from react_pipeline.assets.launch import materialize, open_instance
from react_pipeline.assets.partitions import to_partition_key
from react_pipeline.assets.retries import readable_failures
from react_pipeline.clip import loaded_base
from react_pipeline.extensions.cluster import assets as processes
from react_pipeline.extensions.cluster.assets import environment, failure, write_failure
from react_pipeline.extensions.ui.servers import listen_to_signals
from react_pipeline.project.project import Project
from react_pipeline.store.errors import (
    ConfigError,
    InputError,
    RetrievalError,
    StoreWriteError,
    TrainingError,
)
from react_pipeline.tracking.log import Tracking

METHOD = "gated-image"

Prepare = Callable[..., Project]


def messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(run_id)]


def runs_of_training(project: Project) -> list[Any]:
    return runs_of(Tracking(project), asset="customized_checkpoint")


def test_heads_are_fitted_in_the_process_of_the_asset(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(customization={"defaults": {"processes": 2}})
    monkeypatch.setattr(processes, "customize_here", lambda *_: "here")
    monkeypatch.setattr(dg.PipesSubprocessClient, "run", refuse)
    monkeypatch.setattr(processes, "_show_failed", Mock())
    for method in ("linear-head", "linear-head-control"):
        assert processes.train(Mock(), project, "shapes", method) == "here"
    with pytest.raises(TrainingError, match="without an error message"):
        processes.train(Mock(), project, "shapes", "full-control")


def test_a_training_whose_processes_failed_is_shown_as_failed(prepare: Prepare) -> None:
    project, key = prepare(), f"shapes/{METHOD}"
    processes._show_failed(project, "", key, InputError("pipeline.yaml: steps"))
    assert runs_of_training(project) == []  # no training has begun
    processes._show_failed(project, "", key, TrainingError("the loss is nan"))
    (run,) = runs_of_training(project)
    assert run.info.status == "FAILED" and "the loss is nan" in run.data.tags["error"]


def test_cores_are_shared_among_processes_unless_user_said_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(1, tmp_path)["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert environment(10_000, tmp_path)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in environment(1, tmp_path)


@pytest.mark.parametrize(
    ("error", "kind", "retried"),
    [
        (TrainingError("diverged"), TrainingError, False),
        (RetrievalError("starving"), InputError, False),
        (ConfigError([]), InputError, False),
        (StoreWriteError("disk full"), StoreWriteError, True),
        (ConnectionError("network"), OSError, True),
        (KeyError("x"), TrainingError, False),
    ],
)
def test_errors_of_other_processes_are_retried_as_ones_own(
    tmp_path: Path, error: Exception, kind: type[Exception], retried: bool
) -> None:
    assert failure(tmp_path) is None
    write_failure(tmp_path, 1, error)
    if not isinstance(error, KeyError):  # our own errors first: others then lose the connection
        write_failure(tmp_path, 0, RuntimeError("connection closed by peer"))
    reported = failure(tmp_path)
    assert isinstance(reported, kind) and str(error) in str(reported)
    with pytest.raises((dg.Failure, OSError, StoreWriteError)) as raised, readable_failures():
        raise reported
    assert retried is not isinstance(raised.value, dg.Failure)


def test_the_launching_process_frees_its_card_first(
    tiny_checkpoint: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, held = prepare(processes=2), []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: held.append("freed"))
    loaded_base(tiny_checkpoint, "cpu")

    def run(*_: object, **__: object) -> None:
        held.append(loaded_base.cache_info().currsize)
        raise RuntimeError("killed")

    monkeypatch.setattr(dg.PipesSubprocessClient, "run", run)
    with pytest.raises(TrainingError, match="killed"):
        processes.train(Mock(), project, "shapes", METHOD)
    assert held == ["freed", 0]


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_is_streamed_and_its_failure_is_the_librarys_error(
    prepare: Prepare, tmp_path: Path, number: int
) -> None:
    project = prepare(processes=number)
    with dagster_home(tmp_path / "home"):
        summary = materialize("customized_checkpoint", ["shapes"], [METHOD], project.path)
        assert not summary.failed and summary.built == 1
        with open_instance(project) as instance:
            logged = messages(instance, summary.run_ids[0])
            wanted = dg.AssetRecordsFilter(
                dg.AssetKey("customized_checkpoint"),
                asset_partitions=[to_partition_key(f"shapes/{METHOD}")],
            )
            assert len(instance.fetch_materializations(wanted, limit=5).records) == 1
    assert any("training shapes/gated-image: from the start" in line for line in logged)
    (run,) = runs_of_training(project)
    assert run.info.status == "FINISHED" and run.data.tags["dagster.run_id"] == summary.run_ids[0]
    client = MlflowClient(project.config.tracking_uri)
    artifact = project.store.current("customized_checkpoint", f"shapes/{METHOD}")
    assert artifact.counts["processes"] == number
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [*enumerate(losses(artifact))]
    if number == 1:
        return
    text = project.path.read_text().replace("batch_size: 8\n", "batch_size: 7\n")
    project.path.write_text(text)
    with dagster_home(tmp_path / "home"):
        failed = materialize("customized_checkpoint", ["shapes"], [METHOD], project.path)
    (reason,) = failed.failed.values()
    assert reason == "customization.batch_size 7 does not divide among 2 processes"


LAUNCHING = """
import sys
from react_pipeline.assets.launch import materialize
summary = materialize("customized_checkpoint", ["shapes"], ["gated-image"], sys.argv[1])
print([*summary.failed.values()])
"""


def processes_with(text: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if text in " ".join(process.cmdline()) and process.pid != os.getpid():
                found.append(process.pid)
    return found


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@contextmanager
def launching(project: Project, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A materialization in a process of its own that trains; what it leaves is killed."""
    Tracking(project).connect()
    with dagster_home(tmp_path / "home"):
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHING, str(project.path)],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=listen_to_signals,
        )
        try:
            wait_until(
                lambda: runs_of_training(project) or process.poll() is not None,
                300,
                "it never began",
            )
            assert process.poll() is None, "the training ended before it could be ended"
            yield process
        finally:
            process.kill()
            for left in processes_with(str(project.path)):
                os.kill(left, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_training_process_outlives_the_run_that_started_it(
    prepare: Prepare, tmp_path: Path, end: signal.Signals
) -> None:
    project = prepare(steps=1_000_000, processes=2)
    with launching(project, tmp_path) as process:
        # The launching process, torchrun, and the processes that train.
        assert len(processes_with(str(project.path))) == 4
        process.send_signal(end)
        process.wait(900)
        wait_until(lambda: not processes_with(str(project.path)), 180, "a process was left")
    (run,) = runs_of_training(project)
    assert run.info.status == "KILLED"
    assert not project.store.keys("customized_checkpoint")


@pytest.mark.slow
def test_a_process_killed_by_the_system_fails_with_a_remedy(
    prepare: Prepare, tmp_path: Path
) -> None:
    project = prepare(steps=1_000_000, processes=2)
    with launching(project, tmp_path) as process:
        os.kill(max(processes_with(str(project.path))), signal.SIGKILL)
        reported, _ = process.communicate(timeout=900)
    assert "exited without an error message" in reported and "lower batch_size" in reported
    (run,) = runs_of_training(project)
    assert run.info.status == "FAILED"
    assert "exited without an error message" in run.data.tags["error"]


def train_job_command(project: Project, environ: dict[str, str]) -> list[str]:
    """What a container of the TrainJob starts: Kubernetes puts variables in for `$(NAME)`."""
    template = REPOSITORY / "dagster_home" / "production" / "training-trainjob.yaml"
    text = template.read_text().replace("DOMAIN", "shapes").replace("METHOD", METHOD)
    trainer = yaml.safe_load(text)["spec"]["trainer"]
    python, *command = [*trainer["command"], *trainer["args"]]
    assert python == "python"
    command[command.index("--config=/project/pipeline.yaml")] = f"--config={project.path}"
    return [sys.executable, *(re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], c) for c in command)]


@pytest.mark.slow
def test_a_train_job_trains_on_its_nodes(prepare: Prepare, tmp_path: Path) -> None:
    project = prepare()
    # What the torch runtime of Kubeflow's Trainer sets.
    runtime = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    runtime["PET_MASTER_PORT"] = str(free_port())
    command = train_job_command(project, runtime)
    nodes = [
        subprocess.Popen(
            command,
            env={**os.environ, **runtime, "PET_NODE_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        shown = "".join(node.communicate(timeout=900)[0] for node in nodes)
        assert [node.returncode for node in nodes] == [0, 0]
        assert shown.count("from the start") == 1
    finally:
        for node in nodes:
            node.kill()
    artifact = project.store.current("customized_checkpoint", f"shapes/{METHOD}")
    assert artifact.counts["processes"] == 2
    with dagster_home(tmp_path / "home"):
        summary = materialize("customized_checkpoint", ["shapes"], [METHOD], project.path)
    assert (summary.built, summary.reused) == (0, 1)


def refuse(*_: object) -> None:
    raise AssertionError("asked")


@pytest.mark.parametrize("code", [0, 3])
def test_the_script_of_slurm_names_cores_and_nodes(tmp_path: Path, code: int) -> None:
    for name, text in {
        "srun": f'echo "$*"; exit {code}',
        "react-pipeline": "echo materialized",
        "hostname": "echo node7",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = REPOSITORY / "dagster_home" / "production" / "training.slurm"
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "64"}
    done = subprocess.run(
        ["bash", script, "birds", METHOD],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_GPUS_ON_NODE": "8", **slurm},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    said, *more = done.stdout.splitlines()
    assert more == ([] if code else ["materialized"])
    assert said.startswith("--kill-on-bad-exit --cpus-per-task=64 python -m torch.distributed.run")
    assert "--nnodes 2 --nproc-per-node 8 " in said and "--rdzv-id 42" in said
    assert "--rdzv-endpoint node7:29400 " in said
    assert said.endswith(f"--config pipeline.yaml --domain birds --method {METHOD}")
