"""A training seen in MLflow while it runs, and afterwards if it fails.

A thread of its own talks to MLflow, so that no step waits for a server and none fails because of
one. The log of the published checkpoint (`react_pipeline.tracking`) finds the same run by its
fingerprint, adds what could not be streamed (steps from `metrics.jsonl`), and finishes it. MLflow's
own monitor samples the machine; what it could not write is lost.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
    log_params,
    log_rows,
    log_tags,
    missing_rows,
    params_of,
    reason_of,
    rows_of_record,
    tags_of,
)
from react_pipeline.training import TrainingObserver

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""Pause after MLflow did not answer."""

CLOSE_SECONDS = 30.0
"""How long the end of a training waits at most for what is still to be written."""

BATCH_ROWS = 1_000
"""Rows of a batch, after which the next records are read."""

MAX_WAITING_RECORDS = 10_000
"""Records kept for a server that is down; older ones are left to the final log."""


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
        *,
        flush_seconds: float = FLUSH_SECONDS,
        dagster: str = "",
    ) -> None:
        """Nothing is contacted before the training starts.

        Args:
            dagster: Where a browser finds Dagster, if that is known.
        """
        self.run_id: str | None = None
        self._runs = runs
        self._dagster_run_id = dagster_run_id
        self._dagster = dagster
        self._flush_seconds = flush_seconds
        self._monitor: SystemMetricsMonitor | None = None
        self._records: deque[Mapping[str, Any]] = deque(maxlen=MAX_WAITING_RECORDS)
        self._unwritten: list[Row] = []
        self._thread: threading.Thread | None = None
        self._started_ms: int | None = None
        self._ended = threading.Event()
        self._abandoned = False
        self._warned = False
        self._error: BaseException | None = None
        self._steps: dict[str, set[int]] | None = None

    @classmethod
    def of(cls, project: Project, dagster_run_id: str = "") -> LiveRun:
        """The live run of a training of this project."""
        return cls(Runs.of(project), dagster_run_id, dagster=dagster_url(project))

    @property
    def url(self) -> str | None:
        """Where a browser shows the run; None before it is open, or where the tracking URI is a
        database.
        """
        return self._runs.url(self.run_id) if self.run_id else None

    def started(self, inputs: Inputs, first_step: int) -> None:
        """Open the run of these inputs, or go on in the one that an earlier try left, without
        waiting for it.
        """
        if self._thread is None:
            self._started_ms = round(1000 * time.time())
            # The thread reports an ImportError like any other problem with MLflow. It does not
            # import: a decoding process that is forked in the middle of an import may hang.
            with suppress(ImportError):
                import mlflow.system_metrics.system_metrics_monitor
                import mlflow.utils.autologging_utils  # noqa: F401
            # MLflow imports it where it is installed, and matplotlib looks into a half-made one.
            with suppress(ImportError):
                importlib.import_module("IPython")
            self._thread = threading.Thread(
                target=self._stream, args=(inputs,), name="mlflow", daemon=True
            )
            self._thread.start()

    def stepped(self, record: Mapping[str, float]) -> None:
        """Keep a record for the next batch."""
        if self._thread is not None and self._thread.is_alive():
            self._records.append(dict(record))

    def failed(self, error: BaseException) -> None:
        """Write what is left and mark the run FAILED (an interruption: KILLED) with the reason."""
        if not self._ended.is_set():
            self._error = error
        self.close()

    def close(self) -> None:
        """Write what is left and let go of MLflow, after `CLOSE_SECONDS` at the latest."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._abandoned = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.failed(error)

    def _stream(self, inputs: Inputs) -> None:
        client: MlflowClient | None = None
        while True:
            ended = self._ended.is_set()
            if ended and self._monitor is not None:
                self._monitor.finish()
            pause = self._flush_seconds
            try:
                client = client or self._runs.connect()
                if (run_id := self._write(client, inputs)) is None:
                    return
                if ended and self._error is not None:
                    self._mark_failed(client, run_id, self._error)
            except Exception as error:
                # Whatever MLflow, its database or the network raise, the training continues.
                client = None
                pause = RETRY_SECONDS
                self._runs.forget()
                if not self._warned:
                    self._warned = True
                    uri = without_secrets(self._runs.uri)
                    reason = reason_of(error)
                    logger.warning(
                        "MLflow at %s is unavailable, the training continues without it: %s",
                        uri,
                        reason,
                    )
            if ended or self._abandoned:
                return
            self._ended.wait(pause)

    def _write(self, client: MlflowClient, inputs: Inputs) -> str | None:
        """Write what waits; returns the run's id, or None if there is nothing to be written to it
        any more.
        """
        run_id = self.run_id = self.run_id or self._open(client, inputs)
        if run_id is None:
            return None
        while self._unwritten or self._records:
            while self._records and len(self._unwritten) < BATCH_ROWS:
                self._unwritten += rows_of_record(self._records.popleft())
            if self._abandoned:
                return None
            rows = self._unwritten
            if self._steps is not None:
                rows = missing_rows(client, run_id, rows, self._steps)
            log_rows(client, run_id, rows)
            self._unwritten = []
        return run_id

    def _open(self, client: MlflowClient, inputs: Inputs) -> str | None:
        if self._abandoned:
            return None
        tags = tags_of(inputs, self._dagster_run_id, self._dagster)
        # A short training may end before MLflow answers.
        run, is_resumed = self._runs.open(client, tags, inputs.key, self._started_ms)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            logger.info("MLflow has a finished run of %s already: nothing is streamed", inputs.key)
            return None
        log_params(client, run_id, params_of(inputs))
        if is_resumed:
            self._steps = {}
        if not self._ended.is_set():
            self._sample_machine(run_id)
        return run_id

    def _sample_machine(self, run_id: str) -> None:
        """Let a thread of MLflow write processor, memory, disk, network and GPU to the run."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # It warns of a server that is down, which this thread does too.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        uri = self._runs.uri
        self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def _mark_failed(self, client: MlflowClient, run_id: str, error: BaseException) -> None:
        name = type(error).__name__
        reason = (
            str(error) if isinstance(error, ReactError) else f"{name}: {error}".removesuffix(": ")
        )
        log_tags(client, run_id, {ERROR_TAG: reason, ERROR_TYPE_TAG: name, NOTE_TAG: reason})
        # Ctrl-C and a cancelled run do not derive from Exception; the training did not fail.
        client.set_terminated(run_id, FAILED if isinstance(error, Exception) else KILLED)
