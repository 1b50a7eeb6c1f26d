"""Spreading work: one function over many items, in this process or on a cluster.

Does not belong here: what a task does, any cluster.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from react_pipeline.settings import DistributorConfig
from react_pipeline.store import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

RunTasks = Callable[[Callable[[Any], Any], Sequence[Any], str], list[Any]]
"""Runs a function on items as tasks of a cluster, with a text of what they do."""

_tasks: ContextVar[Callable[[], RunTasks] | None] = ContextVar("tasks", default=None)
"""Gives what runs tasks on the cluster that this thread works on; None: it works alone."""


@contextmanager
def cluster(settings: DistributorConfig) -> Iterator[None]:
    """Let `spread` use a cluster within, if one is configured. Its session begins with the first
    work, and ends on leaving.
    """
    if settings.kind == "local" or on_cluster():
        yield
        return
    with ExitStack() as stack:
        token = _tasks.set(cache(lambda: stack.enter_context(_opened(settings))))
        try:
            yield
        finally:
            _tasks.reset(token)


def on_cluster() -> bool:
    """Whether `spread` uses a cluster here."""
    return _tasks.get() is not None


def spread(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """Apply a function to items and return the results in their order.

    They come one after the other, or within `cluster` each is a task, which may run twice.

    Args:
        what: What the tasks do, for the cluster's own page.

    Raises:
        InputError: If there is no such cluster.
        ReactError: What a task raised.
    """
    run = _tasks.get()
    if run is None:
        return [function(item) for item in items]
    return run()(function, items, what) if items else []


def _opened(settings: DistributorConfig) -> AbstractContextManager[RunTasks]:
    from react_pipeline.extensions.cluster import tasks_in_session

    return tasks_in_session(settings)


def require_shared(folder: Path) -> None:
    """Refuse to work where the store cannot be seen; called by tasks.

    Raises:
        InputError: Naming folder and machine.
    """
    if not folder.is_dir():
        raise InputError(
            f"distributor: {folder} is not there on {socket.gethostname()}: executors must see "
            "the store under the "
            "same path as the driver; put `store` on a file system that all machines share"
        )
