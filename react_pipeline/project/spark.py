"""Spreading work: one function over many items, in this process or as tasks of a Spark cluster.

The wrappers of clip-retrieval, autofaiss and img2dataset around PySpark are not used: they print,
start sessions with fixed settings, and go on after a failed task. Does not belong here: what a task
does.
"""

import json
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from react_pipeline.installation import install_command
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import ConfigError, InputError, ReactError, error_type

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_MARK = "react-pipeline error: "
"""Begins the text of an error of ours inside Spark's; type and text follow it as JSON."""
_OURS = re.compile(re.escape(_MARK) + r"(\[.*?\])$", re.MULTILINE)


_session: ContextVar[Callable[[], Any] | None] = ContextVar("session", default=None)
"""Gives the session of the cluster that this thread works on; None: it works alone."""


@contextmanager
def cluster(settings: DistributorConfig) -> Iterator[None]:
    """Let `spread` use a cluster within, if one is configured. Its session begins with the first
    work, and ends on leaving.
    """
    if settings.kind == "local" or on_cluster():
        yield
        return
    with ExitStack() as stack:
        token = _session.set(cache(lambda: stack.enter_context(_opened(settings))))
        try:
            yield
        finally:
            _session.reset(token)


def on_cluster() -> bool:
    """Whether `spread` uses a cluster here."""
    return _session.get() is not None


def spread(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """The results of a function, in the order of the items.

    They come one after the other, or within `cluster` each is a task: function, items and results
    are pickled, the executors import this package, and a task that fails is tried again as
    `spark.task.maxFailures` says; so a task must be able to run twice.

    Args:
        what: For Spark's own page: what the tasks do.

    Raises:
        InputError: If PySpark or Java is missing, or no session can be started.
        ReactError: What a task raised, if it is one of ours; else with the last line of its
            traceback.
    """
    session = _session.get()
    if session is None:
        return [function(item) for item in items]
    if not items:
        return []
    context = session().sparkContext
    context.setJobDescription(what)
    try:
        return context.parallelize(items, len(items)).map(partial(_marked, function)).collect()
    except KeyboardInterrupt:
        context.cancelAllJobs()
        raise
    except Exception as error:
        raise _brought_back(str(error), what) from None
    finally:
        context.setJobDescription(None)


@contextmanager
def _opened(settings: DistributorConfig) -> Iterator[Any]:
    """The running session, or one that is stopped on leaving; errors as of `spread`."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError(
            f"distributor.kind: spark needs PySpark: {install_command('spark')}"
        ) from error
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise InputError("distributor.kind: spark needs Java 17: install a JRE, or set JAVA_HOME")
    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    # Else executors take whichever `python3` comes first.
    os.environ.setdefault(
        "PYSPARK_PYTHON", settings.conf.get("spark.pyspark.python", sys.executable)
    )
    builder: Any = SparkSession.builder
    builder = builder.appName("react-pipeline").config("spark.ui.showConsoleProgress", "false")
    if settings.master is not None:
        builder = builder.master(settings.master)
    for name, value in settings.conf.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"distributor: no Spark session at {settings.master or 'local[*]'}: {lines[0]}"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


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


def _marked(function: Callable[[Item], Result], item: Item) -> Result:
    """Call a function so that errors of ours can be recognised in the text that Spark makes of
    them.
    """
    try:
        return function(item)
    except ReactError as error:
        raise RuntimeError(_MARK + json.dumps([type(error).__name__, str(error)])) from None


def _brought_back(text: str, what: str) -> ReactError:
    if match := _OURS.search(text):
        name, message = json.loads(match[1])
        kind = error_type(name) or ReactError
        # A ConfigError is made of problems, not of a text.
        return (InputError if kind is ConfigError else kind)(message)
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return ReactError(
        f"{what}: a Spark task failed: {(errors or lines or ['no reason given'])[-1][:500]}"
    )
