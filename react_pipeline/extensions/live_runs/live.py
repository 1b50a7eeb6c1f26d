"""A training seen in MLflow and in the run's log while it runs, and afterwards if it fails.

A thread of its own talks to MLflow, so that no step waits for a server and none fails because of
one. The log of the published checkpoint (`react_pipeline.tracking`) finds the same run by its
fingerprint, adds what could not be streamed (steps from `metrics.jsonl`), and finishes it.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

from react_pipeline.project import Project
from react_pipeline.settings import without_secrets
from react_pipeline.store import Inputs, ReactError
from react_pipeline.tracking import (
    ERROR_TAG,
    ERROR_TYPE_TAG,
    FAILED,
    FINISHED,
    KILLED,
    NOTE_TAG,
    Row,
    Runs,
    dagster_url,
    rows_of_record,
    run_params,
    run_tags,
    short_reason,
)
from react_pipeline.training import TrainingObserver

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""Pause after MLflow did not answer."""

PROGRESS_SECONDS = 10.0
"""Pause between two lines of the log."""

CLOSE_SECONDS = 30.0
"""How long the end of a training waits at most for what is still to be written."""


class LiveRun(TrainingObserver):
    """Streams one training into the MLflow run of its artifact; never raises.

    As a context it closes the run at the end: an error that leaves it marks the run FAILED with the
    error's text, an interruption KILLED. After a success the run stays RUNNING for
    `Tracking.log_artifact`. A killed process leaves it RUNNING too, and the next training of the
    same fingerprint resumes it.
    """

    def __init__(
        self,
        runs: Runs,
        dagster_run_id: str = "",
        report: Callable[[str], None] = lambda _line: None,
        *,
        flush_seconds: float = FLUSH_SECONDS,
        dagster: str = "",
    ) -> None:
        """Nothing is contacted before the training starts.

        Args:
            report: Called with lines for the run's log.
            dagster: Where a browser finds Dagster, if that is known.
        """
        self.run_id: str | None = None
        self._runs, self._report = runs, report
        self._dagster = (dagster_run_id, dagster)
        self._flush_seconds = flush_seconds
        self._waiting: list[Row] = []
        self._known: set[int] = set()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._steps, self._reported, self._url_reported = 0, 0.0, False

    @classmethod
    def of(cls, project: Project, dagster_run_id: str, report: Callable[[str], None]) -> LiveRun:
        """Return the live run of a training of this project; arguments as of `__init__`."""
        return cls(Runs.of(project), dagster_run_id, report, dagster=dagster_url(project))

    def started(self, inputs: Inputs, first_step: int) -> None:
        """Open the run of these inputs, or go on in the one that an earlier try left, without
        waiting for it.
        """
        self._steps = int(inputs.config.get("steps", 0))
        start = f"resuming at step {first_step}" if first_step else "from the start"
        self._report(f"training {inputs.key}: {start}")
        if self._thread is not None:
            return
        # The thread reports an ImportError like any other problem with MLflow. It does not import:
        # a decoding process that is forked in the middle of an import may hang.
        with suppress(ImportError):
            import mlflow.utils.autologging_utils  # noqa: F401
        # MLflow imports it where it is installed, and matplotlib looks into a half-made one.
        with suppress(ImportError):
            importlib.import_module("IPython")
        began = (inputs, round(1000 * time.time()))
        self._thread = threading.Thread(target=self._stream, args=began, name="mlflow", daemon=True)
        self._thread.start()

    def stepped(self, record: Mapping[str, float]) -> None:
        """Keep the rows of a record for the next batch; of a long training these are few. From
        time to time report the progress.
        """
        self._waiting.extend(tuple(rows_of_record(record)))
        # A closed form has no steps.
        if not self._steps or time.monotonic() - self._reported < PROGRESS_SECONDS:
            return
        self._reported = time.monotonic()
        done = f"step {int(record['step']) + 1} of {self._steps}: loss {record['loss']:.4g}"
        if "images_per_second" in record:
            done += f", {record['images_per_second']:g} images/s"
        self._report(done)
        url = self._runs.url(self.run_id) if self.run_id else None
        if url and not self._url_reported:
            self._url_reported = True
            self._report(f"MLflow: {url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._error = error
        self._ended.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _stream(self, inputs: Inputs, started_ms: int) -> None:
        is_silent = False
        while True:
            ended = self._ended.is_set()
            pause = self._flush_seconds
            try:
                self._runs.connect()
                if self.run_id is None and not self._open(inputs, started_ms):
                    return
                self._flush()
                if ended and self._error is not None:
                    self._mark_failed(self._error)
            except Exception as error:
                # Whatever MLflow, its database or the network raise, the training continues.
                pause = RETRY_SECONDS
                if not is_silent:
                    is_silent = True
                    logger.warning(
                        "MLflow at %s is unavailable, the training continues without it: %s",
                        without_secrets(self._runs.uri),
                        short_reason(error),
                    )
            if ended:
                return
            self._ended.wait(pause)

    def _open(self, inputs: Inputs, started_ms: int) -> bool:
        """Open the run; false if it is finished already, so that nothing is to be streamed."""
        run = self._runs.open(run_tags(inputs, *self._dagster), inputs.key, started_ms)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            logger.info("MLflow has a finished run of %s already: nothing is streamed", inputs.key)
            return False
        self._runs.write(run_id, params=run_params(inputs))
        self._known = self._runs.logged_steps(run)
        self.run_id = run_id
        return True

    def _flush(self) -> None:
        """Write what waits; what could not be written is tried again."""
        if rows := tuple(self._waiting):
            self._runs.write(str(self.run_id), rows=rows, without=self._known)
            del self._waiting[: len(rows)]

    def _mark_failed(self, error: BaseException) -> None:
        name, run_id = type(error).__name__, str(self.run_id)
        reason = str(error)
        if not isinstance(error, ReactError):
            reason = f"{name}: {error}".removesuffix(": ")
        tags = {ERROR_TAG: reason, ERROR_TYPE_TAG: name, NOTE_TAG: reason}
        self._runs.write(run_id, tags=tags)
        # Ctrl-C and a cancelled run do not derive from Exception; the training did not fail.
        status = FAILED if isinstance(error, Exception) else KILLED
        self._runs.client.set_terminated(run_id, status)
