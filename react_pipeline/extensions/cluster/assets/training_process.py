"""One process of a training that torchrun started, by `torchrun ... -m
react_pipeline.extensions.cluster.assets.training_process`.

Belongs here: what surrounds `customize` in such a process: the way to Dagster and to MLflow (the
writing process only), and an end that the launching process can read. Does not belong here:
starting processes (`processes`).

It needs no Dagster run: started by torchrun on several nodes, it trains and reports to its
terminal.
"""

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

from react_pipeline.extensions.cluster.assets.processes import (
    EXCHANGE_VARIABLE,
    LIFELINE,
    write_failure,
)
from react_pipeline.extensions.live_runs import LiveRun
from react_pipeline.project import Project
from react_pipeline.training import TrainingObserver

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Time to close the MLflow run after the launching process is gone."""


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
        with LiveRun.of(project, "", partial(print, flush=True)) as observer:
            yield observer
        return
    pipes = open_dagster_pipes()
    library = logging.getLogger("react_pipeline")
    library.setLevel(logging.INFO)
    for handler in pipes.log.handlers:
        library.addHandler(handler)
    try:
        with LiveRun.of(project, pipes.run_id, pipes.log.info) as observer:
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
