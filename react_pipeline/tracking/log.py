"""Tracking: every published artifact as one MLflow run, written once and never at the cost of a
result.

The store is the queue: an artifact without a finished run is logged the next time. A server that is
down or a killed process delays a run and never loses or doubles it: its tag `fingerprint` finds
what is already there, and what is written twice is written once.

Does not belong here: how a run is opened (`runs`), what is written (`values`, `tables`,
`models`), a training under way (`live`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from react_pipeline.settings import without_secrets
from react_pipeline.stage import (
    COMPARISON,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    PROMOTION,
    STAGES,
)
from react_pipeline.store import MANIFEST, Artifact, CorruptArtifact, MissingArtifact
from react_pipeline.tracking.models import MODEL_STAGES, log_inputs, log_model, show_champion
from react_pipeline.tracking.notes import short_reason, view_url
from react_pipeline.tracking.runs import FINISHED, Runs
from react_pipeline.tracking.tables import log_tables
from react_pipeline.tracking.values import (
    cost_rows,
    created_ms,
    difference_rows,
    run_files,
    run_metrics,
)

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

LOCK = "tracking"
"""Name of the store's lock that spares two processes the same work."""

COOLDOWN_SECONDS = 300.0
"""After a failure a tracking server is left alone for this long, so that a slow one does not slow
every asset, nor a training.
"""

_unreachable_until: dict[str, float] = {}

_logged: dict[tuple[str, str], set[str]] = {}
"""Fingerprints that have a finished run, by server and experiment, once this process has logged
whatever lacked one.
"""


class Tracking(Runs):
    """The MLflow runs of one project; nothing is contacted before the first artifact is logged."""

    def log_artifact(self, artifact: Artifact, dagster_run_id: str = "") -> str | None:
        """Log one artifact after whatever could not be logged before; returns the id of its run.

        Never raises, and is safe to repeat: an artifact that is logged already costs a look-up.
        Returns None, with a warning, when MLflow does not answer or refuses it.
        """

        def log() -> str | None:
            known = _logged.get(self._place)
            if known is None or not known.issuperset(artifact.parents.values()):
                self._sync()
            run_id = self._log_if_accepted(artifact, dagster_run_id)
            if run_id:
                _logged[self._place].add(artifact.fingerprint)
            return run_id

        return self.ask(log)

    def sync(self) -> set[str] | None:
        """Log every artifact of the store that has no finished run; returns the fingerprints of
        those that have one then. None, with a warning, when MLflow does not answer.
        """
        return self.ask(self._sync)

    def results_page(self, address: str) -> str:
        """Return where the server at `address` shows the results of all methods; `address` if
        MLflow does not answer here.
        """
        return self.ask(lambda: view_url(address, self.experiment_id)) or address

    @property
    def _place(self) -> tuple[str, str]:
        return self.uri, self.project.config.project

    def ask(self, question: Callable[[], Answer], *, anew: bool = False) -> Answer | None:
        """Connect and return the answer to a question; None, with a warning, when MLflow does not
        answer, or, unless asked `anew`, did not a moment ago.
        """
        if not anew and time.monotonic() < _unreachable_until.get(self.uri, 0.0):
            return None
        try:
            self.connect()
            return question()
        except Exception as error:  # whatever MLflow, its database or the network raise
            _logged.pop(self._place, None)
            _unreachable_until[self.uri] = time.monotonic() + COOLDOWN_SECONDS
            logger.warning(
                "MLflow at %s is unavailable, logging again at the next run: %s",
                without_secrets(self.uri),
                short_reason(error),
            )
            return None

    def _sync(self) -> set[str]:
        with self.project.store.locked(LOCK):
            logged = self.finished()
            for artifact in self._artifacts_except(logged):
                if self._log_if_accepted(artifact):
                    logged.add(artifact.fingerprint)
        _logged[self._place] = logged
        return set(logged)

    def _artifacts_except(self, logged: set[str]) -> list[Artifact]:
        """Return the artifacts of the store that are not logged, in the order of the data."""
        look = self.project.store.look()
        artifacts = []
        for stage, key, fingerprint in look.places():
            # What is pruned or damaged is replaced by what is logged for itself.
            with suppress(MissingArtifact, CorruptArtifact):
                if fingerprint not in logged:
                    artifacts.append(look.open(stage, key, fingerprint))
        order = {stage: number for number, stage in enumerate(STAGES)}
        return sorted(artifacts, key=lambda one: (order.get(one.stage, -1), created_ms(one)))

    def _log_if_accepted(self, artifact: Artifact, dagster_run_id: str = "") -> str | None:
        """Log one artifact; None, with a warning, if that fails and the server still answers."""
        try:
            return self._log(artifact, dagster_run_id)
        except Exception as error:
            self.require_answer()
            logger.warning(
                "%s could not be logged to MLflow, tried again by the next materialize: %s",
                artifact.place,
                short_reason(error),
            )
            return None

    def _log(self, artifact: Artifact, dagster_run_id: str) -> str:
        """Log one artifact; returns the id of its run."""
        if artifact.stage == PROMOTION:
            show_champion(self, artifact)
        seconds_ms = round(1000 * float(artifact.counts.get("seconds") or 0))
        run = self.open(artifact, dagster_run_id, created_ms(artifact) - seconds_ms)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            return run_id
        log_inputs(self, artifact, run_id)
        self.write(
            run_id,
            rows=[*run_metrics(artifact), *cost_rows(artifact)],
            # What a live training or a killed call has written stays as it is.
            without=self.logged_steps(run),
        )
        for path in run_files(artifact):
            self.client.log_artifact(run_id, str(path))
        self.client.log_dict(run_id, dict(artifact.manifest), MANIFEST)
        if artifact.stage == DOMAIN_RESULTS:
            log_tables(self.client, run_id, artifact)
        if artifact.stage in MODEL_STAGES:
            log_model(self, artifact, run_id)
        if artifact.stage == COMPARISON:
            self._log_differences(artifact)
        self.client.set_terminated(run_id, FINISHED, created_ms(artifact))
        if artifact.stage == CUSTOMIZED_CHECKPOINT:
            self.close_abandoned(artifact)
        return run_id

    def _log_differences(self, comparison: Artifact) -> None:
        """Write what a comparison found to the runs of its results, which MLflow compares by it."""
        for method, rows in difference_rows(comparison).items():
            fingerprint = comparison.parents.get(method, "")
            for run in self.find({"asset": DOMAIN_RESULTS, "fingerprint": fingerprint}):
                self.write(run.info.run_id, rows=rows)
