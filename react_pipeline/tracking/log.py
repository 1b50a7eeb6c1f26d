"""Tracking: every published artifact as one MLflow run, written once and never at the cost of a
result.

The store is the queue: an artifact without a finished run is logged the next time. A server that is
down or a killed process delays a run and never loses or doubles it: its tag `fingerprint` finds
what is already there, and what is written twice is written once.

Does not belong here: how a run is opened (`runs`), what is written (`values`, `results`, `models`,
`registry`), a training under way (`extensions.live_runs`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.project import Project
from react_pipeline.settings import without_secrets
from react_pipeline.stage import (
    COMPARISON,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    PROMOTION,
    STAGES,
    method_key,
)
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, ReactError
from react_pipeline.tracking.models import (
    MODEL_STAGES,
    log_inputs,
    log_model,
    model_of,
    refresh_model,
    source_of,
)
from react_pipeline.tracking.notes import dagster_url, reason_of, view_url
from react_pipeline.tracking.registry import Version, list_versions, show_verdict
from react_pipeline.tracking.results import cost_rows, difference_rows
from react_pipeline.tracking.runs import (
    FINISHED,
    Runs,
    log_params,
    log_rows,
    log_tags,
    missing_rows,
)
from react_pipeline.tracking.values import (
    DAGSTER_RUN_TAG,
    created_ms,
    files_of,
    metrics_of,
    params_of,
    tags_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

LOCK = "tracking"
"""Name of the store's lock that spares two processes the same work."""

MISSED = "missed-by-mlflow"
"""Name of the store's note with the artifacts that MLflow did not take when they were published,
and their Dagster runs. Without it they are logged all the same by the next `sync`.
"""

COOLDOWN_SECONDS = 60.0
"""After a failure a tracking server is left alone for this long, so that a slow one does not slow
every asset.
"""

_unreachable_until: dict[str, float] = {}


class Tracking:
    """The MLflow runs of one project, at one tracking URI."""

    def __init__(self, runs: Runs) -> None:
        """Nothing is contacted before the first artifact is logged."""
        self.runs = runs
        self.uri = runs.uri
        self.experiment = runs.experiment

    @classmethod
    def of(cls, project: Project) -> Tracking:
        """Return the tracking that the project's configuration names."""
        return cls(Runs.of(project))

    def log_artifact(
        self,
        project: Project,
        artifact: Artifact,
        dagster_run_id: str = "",
        *,
        patient: bool = False,
    ) -> str | None:
        """Log one artifact, and whatever an earlier call could not log; returns the id of the
        artifact's run.

        Never raises, and is safe to repeat: an artifact that is logged already costs a look-up.
        Returns None, with a warning, when MLflow does not answer; the store remembers.

        Args:
            patient: Ask the server even if it failed a moment ago.
        """

        def log(client: MlflowClient) -> str:
            with project.store.locked(LOCK):
                missed = self._missed(project)
                if missed or self._lacks_parents(client, project, artifact):
                    self._sync(client, project, {_name(artifact): dagster_run_id} | missed)
                return self._log(client, project, artifact, dagster_run_id)

        if (run_id := self._ask(log, patient=patient)) is None:
            missed = {_name(artifact): dagster_run_id} | self._missed(project)
            with suppress(ReactError, OSError):
                project.store.write_note(MISSED, json.dumps(missed))
        return run_id

    def logged(self) -> set[str] | None:
        """Return the fingerprints of the artifacts that are logged; None, with a warning, when
        MLflow does not answer.
        """
        return self._ask(self.runs.finished)

    def sync(self, project: Project, logged: set[str] | None = None) -> set[str] | None:
        """Log every artifact of the store that has no finished run; returns the fingerprints of
        those that have one then. None, with a warning, when MLflow does not answer.

        Args:
            logged: The answer of `logged` a while ago, which need not be asked for again.
        """

        def log(client: MlflowClient) -> set[str]:
            with project.store.locked(LOCK):
                return self._sync(client, project, self._missed(project), logged)

        return self._ask(log, patient=True)

    def count_missed(self, project: Project) -> int:
        """Return how many artifacts MLflow did not take when they were published."""
        return len(self._missed(project))

    def versions(self, slug: str) -> list[Version]:
        """Return the versions of a domain's model, oldest first.

        Raises:
            ReactError: If MLflow cannot be reached; its text has no password of an address.
        """
        try:
            return list_versions(self.runs.connect(), slug)
        except Exception as error:  # whatever MLflow, its database or the network raise
            raise ReactError(f"MLflow does not answer ({reason_of(error)})") from error

    def results_page(self, address: str) -> str:
        """Return where the server at `address` shows the results of all methods; `address` if
        MLflow does not answer here.
        """
        page = self._ask(lambda _: view_url(address, self.runs.experiment_id))
        return page or address

    def _ask(
        self,
        question: Callable[[MlflowClient], Answer],
        *,
        patient: bool = False,
    ) -> Answer | None:
        if not patient and time.monotonic() < _unreachable_until.get(self.uri, 0.0):
            return None
        try:
            return question(self.runs.connect())
        except Exception as error:  # whatever MLflow, its database or the network raise
            self.runs.forget()
            _unreachable_until[self.uri] = time.monotonic() + COOLDOWN_SECONDS
            logger.warning(
                "MLflow at %s is unavailable, logging again at the next run: %s",
                without_secrets(self.uri),
                reason_of(error),
            )
            return None

    def _missed(self, project: Project) -> dict[str, str]:
        with suppress(ReactError, OSError, ValueError, RecursionError):
            return dict(json.loads(project.store.read_note(MISSED) or "{}"))
        return {}

    def _lacks_parents(self, client: MlflowClient, project: Project, artifact: Artifact) -> bool:
        """Whether MLflow lacks the model or the results of an artifact, which the store still
        has.
        """
        places: Iterable[tuple[str, str, str]] = filter(None, [model_of(artifact)])
        if artifact.stage in (COMPARISON, PROMOTION):
            places = (
                (DOMAIN_RESULTS, method_key(artifact.key, name), fingerprint)
                for name, fingerprint in artifact.parents.items()
            )
        for stage, key, fingerprint in places:
            run = self.runs.find(client, {"fingerprint": fingerprint})
            is_logged = run is not None and run.info.status == FINISHED
            if not is_logged and fingerprint in project.store.versions(stage, key):
                return True
        return False

    def _sync(
        self,
        client: MlflowClient,
        project: Project,
        missed: Mapping[str, str],
        logged: set[str] | None = None,
    ) -> set[str]:
        """Log what has no finished run, in the order of the data.

        One failure among successes is the artifact's own; two in a row, or nothing else, is the
        server's, and is raised.
        """
        logged = self.runs.finished(client) if logged is None else set(logged)
        store = project.store.look()
        names = {
            f"{stage} {key} {fingerprint}"
            for stage in STAGES
            for key in store.keys(stage)
            for fingerprint in store.versions(stage, key)
        }
        waiting = []
        for name in {*names, *missed}:
            stage, key, fingerprint = name.split(" ")
            # What is pruned or damaged is replaced by what is logged for itself.
            with suppress(MissingArtifact, CorruptArtifact):
                if fingerprint not in logged:
                    waiting.append(project.store.open(stage, key, fingerprint))
        order = {stage: number for number, stage in enumerate(STAGES)}
        waiting.sort(key=lambda one: (order.get(one.stage, -1), created_ms(one)))
        failures = 0
        for artifact in waiting:
            try:
                self._log(client, project, artifact, missed.get(_name(artifact), ""))
            except Exception as error:
                failures += 1
                if failures > 1 or len(waiting) == 1:
                    raise
                logger.warning(
                    "%s could not be logged to MLflow, tried again by the next materialize: %s",
                    _name(artifact),
                    reason_of(error),
                )
            else:
                failures = 0
                logged.add(artifact.fingerprint)
        if missed:
            project.store.write_note(MISSED, "{}")
        return logged

    def _log(
        self, client: MlflowClient, project: Project, artifact: Artifact, dagster_run_id: str
    ) -> str:
        """Log one artifact; returns the id of its run."""
        if artifact.stage == PROMOTION:
            show_verdict(client, project, artifact)
        seconds_ms = round(1000 * float(artifact.counts.get("seconds") or 0))
        started = created_ms(artifact) - seconds_ms
        tags = tags_of(artifact, dagster_run_id, dagster_url(project))
        run, is_resumed = self.runs.open(client, tags, artifact.key, started)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            if dagster_run_id and DAGSTER_RUN_TAG not in run.data.tags:  # logged by another one
                log_tags(client, run_id, tags)
            return run_id
        self._write(client, project, artifact, run_id, is_resumed=is_resumed)
        # A manifest has whole seconds, and a run that was streamed has the time at which its
        # training began.
        ended = max(created_ms(artifact), run.info.start_time + seconds_ms)
        client.set_terminated(run_id, FINISHED, ended)
        if artifact.stage == CUSTOMIZED_CHECKPOINT:
            self.runs.close_abandoned(client, artifact)
        return run_id

    def _write(
        self,
        client: MlflowClient,
        project: Project,
        artifact: Artifact,
        run_id: str,
        *,
        is_resumed: bool,
    ) -> None:
        """Write all that an artifact says to its run.

        What a live training or a killed call has written stays as it is; only what is missing is
        added.
        """
        log_params(client, run_id, params_of(artifact))
        source = log_inputs(client, self.runs.experiment_id, project, artifact, run_id)
        rows = [*metrics_of(artifact), *cost_rows(project, artifact)]
        if is_resumed:
            rows = missing_rows(client, run_id, rows)
        log_rows(client, run_id, rows, source)
        for path in files_of(artifact):
            client.log_artifact(run_id, str(path))
        refresh_model(client, project, model_of(artifact), source.model_id)
        if artifact.stage in MODEL_STAGES:
            log_model(client, self.runs.experiment_id, project, artifact, run_id)
        if artifact.stage == COMPARISON:
            # The runs of its results can then be compared by it.
            for method, differences in difference_rows(artifact).items():
                tags = {"asset": DOMAIN_RESULTS, "fingerprint": artifact.parents.get(method, "")}
                if run := self.runs.find(client, tags):
                    result = run.info.run_id
                    log_rows(client, result, differences, source_of(client, result))


def _name(artifact: Artifact) -> str:
    return f"{artifact.stage} {artifact.key} {artifact.fingerprint}"
