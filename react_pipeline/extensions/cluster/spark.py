"""Tasks of a Spark cluster.

The wrappers of clip-retrieval, autofaiss and img2dataset around PySpark are not used: they print,
start sessions with fixed settings, and go on after a failed task. Does not belong here: what a task
does, work in this process (`react_pipeline.project`).
"""

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from react_pipeline.installation import install_command
from react_pipeline.project import RunTasks
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import InputError, ReactError, error_from_text

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_MARK = "react-pipeline error: "
"""Begins the text of an error of ours inside Spark's; type and text follow it as JSON."""
_OURS = re.compile(re.escape(_MARK) + r"(\[.*?\])$", re.MULTILINE)


@contextmanager
def tasks_in_session(settings: DistributorConfig) -> Iterator[RunTasks]:
    """Yield what runs tasks in the running session, or in one that is stopped on leaving.

    Raises:
        InputError: If PySpark or Java is missing, or no session can be started.
    """
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
        yield partial(_run, running.sparkContext)
        return
    # Else executors take whichever `python3` comes first.
    os.environ.setdefault(
        "PYSPARK_PYTHON", settings.conf.get("spark.pyspark.python", sys.executable)
    )
    conf = {"spark.ui.showConsoleProgress": "false", **settings.conf}
    builder = SparkSession.builder.appName("react-pipeline").config(map=conf)
    if settings.master is not None:
        builder = builder.master(settings.master)
    try:
        session = builder.getOrCreate()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"distributor: no Spark session at {settings.master or 'local[*]'}: {lines[0]}"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield partial(_run, session.sparkContext)
    finally:
        session.stop()


def _run(
    context: Any, function: Callable[[Item], Result], items: Sequence[Item], what: str
) -> list[Result]:
    """Return the results of a function, in the order of the items.

    Each item is a task: function, items and results are pickled, the executors import this package,
    and a task that fails is tried again as `spark.task.maxFailures` says.

    Args:
        what: For Spark's own page: what the tasks do.

    Raises:
        ReactError: What a task raised, if it is one of ours; else with the last line of its
            traceback.
    """
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
        return error_from_text(*json.loads(match[1]))
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return ReactError(
        f"{what}: a Spark task failed: {(errors or lines or ['no reason given'])[-1][:500]}"
    )
