"""A training seen in MLflow and in the run's log while it runs, and afterwards if it fails.

The training itself writes to MLflow, from time to time and in a few rows. A server that does not
answer costs it seconds, and is then left alone like by every log (`Tracking.ask`). The log of the
published checkpoint finds the same run by its fingerprint, adds what could not be streamed (steps
from `metrics.jsonl`), and finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Self

from react_pipeline.store import Inputs, ReactError
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.notes import NOTE_TAG
from react_pipeline.tracking.runs import ERROR_TAG, ERROR_TYPE_TAG, FAILED, FINISHED, KILLED
from react_pipeline.tracking.values import Row, rows_of_record
from react_pipeline.training import TrainingObserver

PAUSE_SECONDS = 20.0
"""Pause between two lines of the log, each with what MLflow lacks."""


class LiveRun(TrainingObserver):
    """Streams one training into the MLflow run of its artifact; never raises.

    As a context it closes the run at the end: an error that leaves it marks the run FAILED with the
    error's text, an interruption KILLED. After a success the run stays RUNNING for
    `Tracking.log_artifact`. A killed process leaves it RUNNING too, and the next training of the
    same fingerprint resumes it.
    """

    _inputs: Inputs

    def __init__(
        self,
        tracking: Tracking,
        dagster_run_id: str = "",
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Nothing is contacted before the training starts.

        Args:
            report: Called with lines for the run's log.
        """
        self.run_id: str | None = None
        self._tracking, self._dagster_run_id, self._report = tracking, dagster_run_id, report
        self._waiting: list[Row] = []
        self._known: set[int] = set()
        self._started_ms, self._written = 0, 0.0

    def started(self, inputs: Inputs, first_step: int) -> None:
        """Open the run of these inputs, or go on in the one that an earlier try left."""
        start = f"resuming at step {first_step}" if first_step else "from the start"
        self._report(f"training {inputs.key}: {start}")
        self._inputs, self._started_ms = inputs, round(1000 * time.time())
        self._tracking.ask(self._write)

    def stepped(self, record: Mapping[str, float]) -> None:
        """Keep the rows of a record, which are few in a long training; from time to time write
        them, and report the progress.
        """
        self._waiting.extend(rows_of_record(record))
        if time.monotonic() - self._written < PAUSE_SECONDS:
            return
        self._tracking.ask(self._write)
        self._written = time.monotonic()
        if steps := self._inputs.config.get("steps"):  # a closed form has none
            done = f"step {int(record['step']) + 1} of {steps}: loss {record['loss']:.4g}"
            if "images_per_second" in record:
                done += f", {record['images_per_second']:g} images/s"
            self._report(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._started_ms:
            self._tracking.ask(lambda: self._close(error), anew=error is not None)

    def _write(self) -> None:
        """Write what waits to the run, which the first call that MLflow answers opens; nothing if
        that is finished already.
        """
        if self.run_id is None:
            self._open()
        if self.run_id is not None:
            self._tracking.write(self.run_id, rows=self._waiting, without=self._known)
            self._waiting.clear()

    def _open(self) -> None:
        run = self._tracking.open(self._inputs, self._dagster_run_id, self._started_ms)
        if run.info.status != FINISHED:
            self._known = self._tracking.logged_steps(run)
            self.run_id = str(run.info.run_id)
            if url := self._tracking.url(self.run_id):
                self._report(f"MLflow: {url}")

    def _close(self, error: BaseException | None) -> None:
        self._write()
        if error is None or self.run_id is None:
            return
        name = type(error).__name__
        reason = str(error)
        if not isinstance(error, ReactError):
            reason = f"{name}: {error}".removesuffix(": ")
        tags = {ERROR_TAG: reason, ERROR_TYPE_TAG: name, NOTE_TAG: reason}
        self._tracking.write(self.run_id, tags=tags)
        # Ctrl-C and a cancelled run do not derive from Exception; the training did not fail.
        status = FAILED if isinstance(error, Exception) else KILLED
        self._tracking.client.set_terminated(self.run_id, status)
