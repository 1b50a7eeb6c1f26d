"""Training processes: whether a training runs in the asset's own process or in several, and how
these are started.

Belongs here: torchrun, its arguments, and what is made of its failure. Does not belong here: what
one of these processes does (`training_process`), the training itself
(`react_pipeline.training.customization`).

The processes are started through Dagster Pipes, so that their log lines are in the run's log and a
cancelled run takes them with it. They share a folder of files with this process: each failure as
text, and a lock that this process holds. The kernel frees the lock however this process ends, and
then all of them end.
"""

import builtins
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg

from react_pipeline.assets import (
    REPOSITORY,
    Context,
    customize_here,
    declare_trainer,
    observed,
    processes_of,
)
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    ReactError,
    Store,
    StoreWriteError,
    TrainingError,
    error_type,
    lock,
    write_atomically,
)

TORCHRUN_VARIABLE = "REACT_TORCHRUN_ARGS"
"""Arguments for torchrun, such as `--nnodes 2 --node-rank 0 --rdzv-endpoint host:29400`, for
several nodes.
"""
NODES_VARIABLE = "REACT_NODE_LAUNCHER"
"""A command that runs the one behind it on every node, such as `srun --kill-on-bad-exit`, and ends
all of them when one fails or when it gets SIGTERM.
"""

EXCHANGE_VARIABLE = "REACT_TRAINING_EXCHANGE"
"""Names the folder that the processes share with the launching process."""

STORE_OF_A_ROUND = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Gives the processes a new store of addresses each time that torchrun starts all again. Otherwise
one may find where a process listened that was killed, and wait for it.
"""

LIFELINE = "launcher.lock"
TERMINATION_SECONDS = 45.0
"""torchrun itself gives its processes 30 seconds to end before it kills them."""


@declare_trainer
def train(context: Context, project: Project, slug: str, method: str) -> Artifact:
    """Customize in this process, or in as many as the configuration and `REACT_TORCHRUN_ARGS` say.

    Raises:
        ReactError: What the training raised; in other processes its text, as `TrainingError` or
            `StoreWriteError`.
        OSError: A transient fault.
    """
    processes = processes_of(project, slug, method)
    if processes > 1 or arguments_for_several_nodes(project, method):
        return launch(context, project, slug, method, processes)
    return customize_here(context, project, slug, method)


def arguments_for_several_nodes(project: Project, method: str) -> list[str]:
    """Return what `REACT_TORCHRUN_ARGS` holds for this method."""
    arguments = os.environ.get(TORCHRUN_VARIABLE, "")
    return shlex.split(arguments) if project.method(method).spreads else []


def launch(context: Context, project: Project, slug: str, method: str, processes: int) -> Artifact:
    """Train with torchrun and return the published checkpoint.

    Raises:
        TrainingError: With the text of the process that failed first.
        StoreWriteError: As above, of the disk.
        OSError: As above, of a transient fault.
    """
    batch_size = project.training(slug, method).batch_size
    if batch_size % processes:
        raise InputError(
            f"customization.batch_size {batch_size} does not divide among {processes} processes"
        )
    arguments = ["--config", str(project.path), "--domain", slug, "--method", method]
    several = arguments_for_several_nodes(project, method)
    starter = shlex.split(os.environ.get(NODES_VARIABLE, "")) if several else []
    with _exchange(project.store if starter else None) as exchange:
        client = _client(exchange if starter else None)
        command = [*starter, *torchrun_command(processes, several, arguments)]
        context.log.info(shlex.join(command))
        try:
            env = environment(processes, exchange) | (STORE_OF_A_ROUND if several else {})
            client.run(context=context, command=command, env=env)
        except Exception as stopped:  # Dagster's own name for it is private
            error = failure(exchange) or TrainingError(
                f"a training process exited without an error message ({stopped}): out of memory? "
                "See the step's stderr; raise customization accumulation, or lower batch_size or "
                "processes"
            )
            _show_failed(project, context.run.run_id, method_key(slug, method), error)
            raise error from None
    return replace(fresh(project, "customized_checkpoint", method_key(slug, method)), reused=False)


def torchrun_command(processes: int, several_nodes: list[str], arguments: list[str]) -> list[str]:
    """Return the command line of torchrun; a machine by itself finds a free port."""
    rendezvous = several_nodes or ["--standalone"]
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *rendezvous,
        "--nproc-per-node",
        str(processes),
    ]
    return [*run, "-m", "react_pipeline.extensions.torchrun.assets.training_process", *arguments]


def environment(processes: int, exchange: Path) -> dict[str, str]:
    """Return variables that are added to the environment of the processes."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    shared = {EXCHANGE_VARIABLE: str(exchange), "PYTHONPATH": os.pathsep.join(paths)}
    if "OMP_NUM_THREADS" not in os.environ:
        # torchrun would take one thread a process; more than there are cores slow each other down.
        shared["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return shared


def _client(exchange: Path | None) -> dg.PipesSubprocessClient:
    """Return Dagster Pipes to processes of this machine, or of others through a shared folder."""
    reader = None if exchange is None else dg.PipesFileMessageReader(str(exchange / "messages"))
    return dg.PipesSubprocessClient(
        context_injector=None if exchange is None else dg.PipesEnvContextInjector(),
        message_reader=reader,
        termination_timeout_seconds=TERMINATION_SECONDS,
    )


@contextmanager
def _exchange(store: Store | None) -> Iterator[Path]:
    """Make a folder that the processes see: of this machine, or next to the artifacts for other
    nodes.
    """
    root = None if store is None else store.root
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".react-training-", dir=root) as name:
        directory = Path(name)
        with (directory / LIFELINE).open("w") as lifeline, (directory / LIFELINE).open() as other:
            if not lock(lifeline, wait=False) or lock(other, wait=False):
                (directory / LIFELINE).unlink()  # a file system without locks
            yield directory


def write_failure(exchange: Path, rank: int, error: Exception) -> None:
    """Leave the error of one process for the launching process."""
    kind = "OSError" if isinstance(error, OSError) else type(error).__name__
    text = (
        str(error)
        if isinstance(error, (ReactError, OSError))
        else f"{type(error).__name__}: {error}"
    )
    failure = {"rank": rank, "kind": kind, "text": text, "time": time.time()}
    write_atomically(exchange / f"failure-{rank}.json", json.dumps(failure))


def failure(exchange: Path) -> Exception | None:
    """Return the error that ended a training: our own exceptions first, since the other processes
    then fail with communication errors.
    """
    failures = [json.loads(path.read_bytes()) for path in exchange.glob("failure-*.json")]
    if not failures:
        return None
    first = min(failures, key=lambda entry: (_type_of(entry["kind"]) is None, entry["time"]))
    kind = _type_of(first["kind"])
    if kind is OSError:
        return OSError(first["text"])
    if kind is not None and issubclass(kind, StoreWriteError):
        return StoreWriteError(first["text"])
    # The other types differ only in what they say; some cannot be made of a text alone.
    return (InputError if kind is not None and issubclass(kind, InputError) else TrainingError)(
        first["text"]
    )


def _type_of(name: str) -> type[Exception] | None:
    return builtins.OSError if name == "OSError" else error_type(name)


def _show_failed(project: Project, run_id: str, key: str, error: Exception) -> None:
    # The process that streams may have been killed, or know only that it lost touch with the one
    # that failed.
    if isinstance(error, InputError):
        return  # no training has begun
    inputs = resolve(project, "customized_checkpoint", key)
    with observed(project, run_id, lambda _line: None) as observer:
        observer.started(inputs, 0)
        observer.failed(error)
