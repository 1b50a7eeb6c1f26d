"""Training in several processes: how torchrun starts them, and what each of them does, by `torchrun
... -m react_pipeline.extensions.cluster.assets`.

Belongs here: whether a training runs in the asset's own process or in several, torchrun, its
arguments, what is made of its failure, and what surrounds `customize` in one of its processes: the
way to Dagster and to MLflow (the writing process only), and an end that the launching process can
read. Does not belong here: the training itself (`react_pipeline.training.customization`).

The processes are started through Dagster Pipes, so that their log lines are in the run's log and a
cancelled run takes them with it. They share a folder of files with the launching process: each
failure as text, and a lock that it holds. The kernel frees the lock however that process ends, and
then all of them end. Started by torchrun on several nodes, without a Dagster run, a process reports
to its terminal.
"""

import argparse
import fcntl
import gc
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import dagster as dg
from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

from react_pipeline.assets import Context, customize_here
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    ReactError,
    TrainingError,
    error_from_text,
    lock,
    write_atomically,
)
from react_pipeline.tracking import LiveRun, Tracking
from react_pipeline.training import TrainingObserver

logger = logging.getLogger(__name__)

EXCHANGE_VARIABLE = "REACT_TRAINING_EXCHANGE"
"""Names the folder that the processes share with the launching process."""

LIFELINE = "launcher.lock"
TERMINATION_SECONDS = 45.0
"""torchrun itself gives its processes 30 seconds to end before it kills them."""

GRACE_SECONDS = 10.0
"""Time to close the MLflow run after the launching process is gone."""


def train(context: Context, project: Project, slug: str, method: str) -> Artifact:
    """Customize in this process, or in as many as the configuration says; returns the published
    checkpoint.

    Raises:
        ReactError: What the training raised, in other processes what failed first.
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
    return [*torchrun, "--nproc-per-node", str(processes), "-m", __name__, *arguments]


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
    name, text = type(error).__name__, str(error)
    ours = isinstance(error, (ReactError, OSError))
    if isinstance(error, OSError):
        name = OSError.__name__
    elif not ours:
        name, text = TrainingError.__name__, f"{name}: {text}"
    found = json.dumps([not ours, time.time(), name, text])
    write_atomically(exchange / f"failure-{rank}.json", found)


def failure(exchange: Path) -> Exception | None:
    """Return the error that ended a training: our own exceptions first, since the other processes
    then fail with communication errors.
    """
    failures = sorted(json.loads(path.read_bytes()) for path in exchange.glob("failure-*.json"))
    if not failures:
        return None
    *_, name, text = failures[0]
    return OSError(text) if name == OSError.__name__ else error_from_text(name, text)


def _show_failed(project: Project, run_id: str, key: str, error: Exception) -> None:
    # The process that streams may have been killed, or know only that it lost touch with the one
    # that failed.
    if isinstance(error, InputError):
        return  # no training has begun
    inputs = resolve(project, "customized_checkpoint", key)
    with (
        suppress(type(error)),  # what leaves the context is shown; it is raised by the caller
        LiveRun(Tracking(project), run_id) as observer,
    ):
        observer.started(inputs, 0)
        raise error


def main() -> int:
    """Train as one process of several; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("config", "domain", "method"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    exchange = os.environ.get(EXCHANGE_VARIABLE)
    logging.basicConfig(level=logging.WARNING, format=f"[{rank}] %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if exchange:
        threading.Thread(
            target=_end_with_launcher, args=(Path(exchange) / LIFELINE,), daemon=True
        ).start()
    try:
        project = Project.load(arguments.config)
        with _observer(project, rank) as observer:
            import torch.distributed as dist

            from react_pipeline.clip import choose_device
            from react_pipeline.extensions.cluster.world import Processes
            from react_pipeline.training import customize

            world = Processes.join(choose_device(project.config.device))
            customize(project, arguments.domain, arguments.method, observer, world)
        if dist.is_initialized():
            dist.destroy_process_group()
    except Exception as error:
        if exchange:
            write_failure(Path(exchange), rank, error)
        logger.error("%s: %s", type(error).__name__, error)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


@contextmanager
def _observer(project: Project, rank: int) -> Iterator[TrainingObserver]:
    """Yield MLflow and the log of the Dagster run for the process that writes, or its terminal
    where no run started it; none for the others.
    """
    if rank:
        yield TrainingObserver()
        return
    if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        with LiveRun(Tracking(project), "", partial(print, flush=True)) as observer:
            yield observer
        return
    pipes = open_dagster_pipes()
    library = logging.getLogger("react_pipeline")
    library.setLevel(logging.INFO)
    for handler in pipes.log.handlers:
        library.addHandler(handler)
    try:
        with LiveRun(Tracking(project), pipes.run_id, pipes.log.info) as observer:
            yield observer
    finally:
        # Not as a context: that would send the traceback of an error whose text is reported in
        # another way.
        pipes.close()


def _end_with_launcher(lifeline: Path) -> None:
    """Wait for the lock that the launching process holds, and end this one when it is free."""
    with suppress(FileNotFoundError), lifeline.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
