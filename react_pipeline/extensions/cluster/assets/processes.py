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

import gc
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import dagster as dg

from react_pipeline.assets import Context, customize_here
from react_pipeline.extensions.live_runs import LiveRun
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    ReactError,
    StoreWriteError,
    TrainingError,
    lock,
    write_atomically,
)

EXCHANGE_VARIABLE = "REACT_TRAINING_EXCHANGE"
"""Names the folder that the processes share with the launching process."""

FAILURES: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (OSError, StoreWriteError, InputError, TrainingError)
}
"""What errors of other processes become here; some of our types cannot be made of a text alone."""

LIFELINE = "launcher.lock"
TERMINATION_SECONDS = 45.0
"""torchrun itself gives its processes 30 seconds to end before it kills them."""


def train(context: Context, project: Project, slug: str, method: str) -> Artifact:
    """Customize in this process, or in as many as the configuration says; returns the published
    checkpoint.

    Raises:
        ReactError: What the training raised; in other processes the text of what failed first, as
            `TrainingError` or `StoreWriteError`.
        OSError: A transient fault.
    """
    processes = project.training(slug, method).processes
    if processes == 1 or not project.method(method).spreads:
        return customize_here(context, project, slug, method)
    client = dg.PipesSubprocessClient(termination_timeout_seconds=TERMINATION_SECONDS)
    arguments = ["--config", str(project.path), "--domain", slug, "--method", method]
    command = torchrun_command(processes, arguments)
    context.log.info(shlex.join(command))
    with _exchange() as exchange:
        _free_card()
        try:
            env = environment(processes, exchange)
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


def _free_card() -> None:
    """Give back what earlier steps of this process hold of a GPU, where rank 0 will train."""
    if torch := sys.modules.get("torch"):
        from react_pipeline.clip import loaded_base

        loaded_base.cache_clear()
        gc.collect()
        torch.cuda.empty_cache()


def torchrun_command(processes: int, arguments: list[str]) -> list[str]:
    """Return the command line of torchrun, which finds a free port."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    module = "react_pipeline.extensions.cluster.assets.training_process"
    return [*torchrun, "--nproc-per-node", str(processes), "-m", module, *arguments]


def environment(processes: int, exchange: Path) -> dict[str, str]:
    """Return variables that are added to the environment of the processes."""
    shared = {EXCHANGE_VARIABLE: str(exchange)}
    if "OMP_NUM_THREADS" not in os.environ:
        # torchrun would take one thread a process; more than there are cores slow each other down.
        shared["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return shared


@contextmanager
def _exchange() -> Iterator[Path]:
    """Make a folder that the processes see; while it is there, this process holds the lock of its
    `LIFELINE`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="react-training-") as name,
        Path(name, LIFELINE).open("w") as lifeline,
    ):
        lock(lifeline, wait=False)
        yield Path(name)


def write_failure(exchange: Path, rank: int, error: Exception) -> None:
    """Leave the error of one process for the launching process."""
    ours = isinstance(error, (ReactError, OSError))
    kinds = [name for name, kind in FAILURES.items() if isinstance(error, kind)]
    kind = (kinds or ["TrainingError"])[0]
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    failure = json.dumps([not ours, time.time(), kind, text])
    write_atomically(exchange / f"failure-{rank}.json", failure)


def failure(exchange: Path) -> Exception | None:
    """Return the error that ended a training: our own exceptions first, since the other processes
    then fail with communication errors.
    """
    failures = sorted(json.loads(path.read_bytes()) for path in exchange.glob("failure-*.json"))
    if not failures:
        return None
    *_, kind, text = failures[0]
    return FAILURES[kind](text)


def _show_failed(project: Project, run_id: str, key: str, error: Exception) -> None:
    # The process that streams may have been killed, or know only that it lost touch with the one
    # that failed.
    if isinstance(error, InputError):
        return  # no training has begun
    inputs = resolve(project, "customized_checkpoint", key)
    with (
        suppress(type(error)),  # what leaves the context is shown; it is raised by the caller
        LiveRun.of(project, run_id, lambda _line: None) as observer,
    ):
        observer.started(inputs, 0)
        raise error
