"""Tracking: every published artifact as one MLflow run, written once and never at the cost of a
result.

Does not belong here: how a run is found (`runs`), a training under way (`live`), deciding what is
champion.

An artifact is on disk before its run is written. It is queued in `<store>/.pending_tracking` first
and leaves the queue when its run is FINISHED, so a server that is down or a killed process delays a
run and never loses or doubles it: the `fingerprint` tag finds what is already there. The log of a
`promotion` also applies its verdict to the registry.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.project import Project
from react_pipeline.promotion import RegistryEdit
from react_pipeline.stage import COMPARISON, CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, PROMOTION
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    MissingArtifact,
    ReactError,
    slug_of,
)
from react_pipeline.tracking.models import (
    MODEL_STAGES,
    MetricSource,
    datasets_of,
    find_model_id,
    log_model,
    model_of,
    refresh_model,
)
from react_pipeline.tracking.notes import dagster_url, view_url
from react_pipeline.tracking.queue import PENDING, Queue, reason_of
from react_pipeline.tracking.registry import apply_verdict, edited_by_hand, hand_edit
from react_pipeline.tracking.results import cost_rows, difference_rows
from react_pipeline.tracking.runs import (
    FINISHED,
    Runs,
    log_params,
    log_rows,
    missing_rows,
)
from react_pipeline.tracking.values import created_ms, files_of, metrics_of, params_of, tags_of
from react_pipeline.tracking.versions import Version, list_versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

LOCK = "tracking"
"""Name of the store's lock of the queue."""


@dataclass
class Delivery:
    """Result of a pass over the queue.

    Attributes:
        run_id: Of the run of the artifact that was to be logged; None if it waits.
        runs: Ids of all runs by the file name of their entry.
        waits: Number of verdicts that still wait.
        notes: What a person should read about the verdicts that were applied.
    """

    run_id: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    waits: int = 0
    notes: list[str] = field(default_factory=list)


class Tracking:
    """The MLflow runs of one project, at one tracking URI."""

    def __init__(self, runs: Runs) -> None:
        """Nothing is contacted before the first artifact is logged."""
        self.runs = runs
        self.uri = runs.uri
        self.experiment = runs.experiment

    @classmethod
    def of(cls, project: Project) -> Tracking:
        """Tracking as the project's configuration says."""
        return cls(Runs.of(project))

    def log_artifact(
        self, project: Project, artifact: Artifact, dagster_run_id: str = ""
    ) -> str | None:
        """Log one artifact, and whatever an earlier call could not log; returns the id of the
        artifact's run.

        Safe to repeat: an artifact that is logged already costs one look-up. Returns None, with a
        warning, when MLflow does not answer; the artifact stays queued then.
        """
        return self.apply(project, artifact, dagster_run_id).run_id

    def apply(
        self,
        project: Project,
        artifact: Artifact | None = None,
        dagster_run_id: str = "",
        *,
        patient: bool = False,
    ) -> Delivery:
        """Log everything queued, with an artifact at its end; never raises, safe to repeat.

        `patient` asks the server even if it failed a moment ago.
        """
        queue = self._queue(project)
        delivery = Delivery()
        entry = None if artifact is None else _put(queue, artifact, dagster_run_id)
        if queue.entries() and not queue.rests(patient=patient):
            with project.store.locked(LOCK):
                if artifact is not None:
                    # Another process may have logged it while this one waited; its run is needed
                    # all the same.
                    _put(queue, artifact, dagster_run_id)
                try:
                    client = self.runs.connect()
                    self._log_entries(client, project, delivery)
                    if artifact is not None and artifact.stage == CUSTOMIZED_CHECKPOINT:
                        self.runs.close_abandoned(client, project.store, artifact)
                except Exception as error:  # whatever MLflow, its database or the network raise
                    self.runs.forget()
                    queue.rest(error)
        for note in delivery.notes:
            logger.warning("%s", note)
        delivery.run_id = delivery.runs.get(entry.name) if entry else None
        delivery.waits = len(queue.verdicts())
        return delivery

    def hand_edit(self, project: Project, slug: str) -> RegistryEdit | None:
        """What a person did to the alias `champion` since it was last written, as far as that is
        known.

        None: nothing, or MLflow is down, or verdicts of the domain wait.
        """
        if self._queue(project).verdicts(slug):
            return None
        return self._asked(project, lambda client: hand_edit(client, slug))

    def edited(self, project: Project) -> set[str]:
        """The domains of which `hand_edit` knows something."""
        slugs = self._asked(project, edited_by_hand) or set()
        return {slug for slug in slugs if not self._queue(project).verdicts(slug)}

    def versions(self, slug: str) -> list[Version]:
        """The versions of a domain's model, oldest first.

        Raises:
            ReactError: If MLflow cannot be reached; its text has no password of an address.
        """
        try:
            return list_versions(self.runs.connect(), slug)
        except Exception as error:  # whatever MLflow, its database or the network raise
            raise ReactError(f"MLflow does not answer ({reason_of(error)})") from error

    def _queue(self, project: Project) -> Queue:
        return Queue(self.uri, project.store.root / PENDING)

    def _log_entries(self, client: MlflowClient, project: Project, delivery: Delivery) -> None:
        """Log what waits, longest waiting first.

        One failure among successes is the entry's own; two in a row, or nothing else, is the
        server's, and is raised.
        """
        failures: dict[str, Exception] = {}
        in_a_row = 0
        entries = self._queue(project).entries()
        for path in sorted(entries, key=lambda path: path.stat().st_mtime_ns):
            try:
                entry = json.loads(path.read_text(encoding="utf-8"))
                delivery.runs[path.name] = self._log_entry(client, project, entry, delivery.notes)
            except Exception as error:
                path.touch()  # to the end, so that a bad entry delays the others once at most
                failures[path.stem] = error
                in_a_row += 1
                if in_a_row > 1:
                    raise
            else:
                path.unlink()
                in_a_row = 0
        for name, failure in failures.items():
            if not any(delivery.runs.values()):
                raise failure
            logger.warning(
                "%s could not be logged to MLflow, retried at the next run: %s",
                name,
                reason_of(failure),
            )

    def _log_now(
        self, client: MlflowClient, project: Project, stage: str, key: str, fingerprint: str
    ) -> str:
        """The run of an artifact, which may wait in the queue; logging it twice costs one look-up.
        "" if it is gone.
        """
        entry = {"stage": stage, "key": key, "fingerprint": fingerprint, "dagster_run_id": ""}
        waiting = self._queue(project).folder / f"{slug_of(stage, key, fingerprint)}.json"
        if waiting.exists():
            entry = json.loads(waiting.read_text())
        return self._log_entry(client, project, entry, [])

    def logged(self, project: Project) -> set[str] | None:
        """Fingerprints of the artifacts that are logged; None, with a warning, when MLflow does not
        answer.
        """
        return self._asked(project, self.runs.finished)

    def results_page(self, project: Project, address: str) -> str:
        """Where the server at `address` shows the results of all methods; `address` if MLflow does
        not answer here.
        """
        page = self._asked(project, lambda _: view_url(address, self.runs.experiment_id))
        return page or address

    def _asked(self, project: Project, question: Callable[[MlflowClient], Answer]) -> Answer | None:
        if (queue := self._queue(project)).rests():
            return None
        try:
            return question(self.runs.connect())
        except Exception as error:  # whatever MLflow, its database or the network raise
            self.runs.forget()
            queue.rest(error)
            return None

    def count_pending(self, project: Project, *, verdicts: bool = False) -> int:
        """How many artifacts and verdicts wait to be logged, or `verdicts` alone."""
        queue = self._queue(project)
        return len(queue.verdicts() if verdicts else queue.entries())

    def _log_entry(
        self, client: MlflowClient, project: Project, entry: dict[str, str], notes: list[str]
    ) -> str:
        """Log one artifact; returns the id of its run, or "" if the artifact is gone."""
        try:
            artifact = project.store.open(entry["stage"], entry["key"], entry["fingerprint"])
        except (MissingArtifact, CorruptArtifact):
            return ""  # pruned or damaged since; what replaces it is logged for itself
        if artifact.stage == PROMOTION:
            checkpoint = partial(self._log_now, client, project)
            notes += apply_verdict(client, project, artifact, checkpoint)
        seconds_ms = round(1000 * float(artifact.counts.get("seconds") or 0))
        started = created_ms(artifact) - seconds_ms
        tags = tags_of(artifact, entry["dagster_run_id"], dagster_url(project))
        run, is_resumed = self.runs.open(client, tags, artifact.key, started)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            return run_id
        self._write(client, project, artifact, run_id, is_resumed=is_resumed)
        # A manifest has whole seconds, and a run that was streamed has the time at which its
        # training began.
        ended = max(created_ms(artifact), run.info.start_time + seconds_ms)
        client.set_terminated(run_id, FINISHED, ended)
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
        measured = self._log_inputs(client, project, artifact, run_id)
        rows = [*metrics_of(artifact), *cost_rows(project, artifact)]
        if is_resumed:
            rows = missing_rows(client, run_id, rows)
        log_rows(client, run_id, rows, measured)
        for path in files_of(artifact):
            client.log_artifact(run_id, str(path))
        refresh_model(client, project, model_of(artifact), measured.model_id)
        if artifact.stage in MODEL_STAGES:
            log_model(client, self.runs.experiment_id, project, artifact, run_id)
        if artifact.stage == COMPARISON:
            self._log_differences(client, project, artifact)

    def _log_inputs(
        self, client: MlflowClient, project: Project, artifact: Artifact, run_id: str
    ) -> MetricSource:
        """Write which data sets and which model a run used; return what was measured on what."""
        from mlflow.entities import LoggedModelInput

        datasets = datasets_of(artifact)
        models = []
        model_id = None
        if (model := model_of(artifact)) is not None:
            find = partial(find_model_id, client, self.runs.experiment_id, model[2])
            # Its own run may still wait in the queue behind this one.
            if (model_id := find()) is None and self._log_now(client, project, *model):
                model_id = find()
            inputs = client.get_run(run_id).inputs
            logged = [model.model_id for model in inputs.model_inputs] if inputs else []
            models = [LoggedModelInput(model_id)] if model_id and model_id not in logged else []
        if datasets or models:
            client.log_inputs(run_id, datasets, models)
        if not datasets:
            return MetricSource(model_id)
        return MetricSource(model_id, datasets[0].dataset.name, datasets[0].dataset.digest)

    def _log_differences(
        self, client: MlflowClient, project: Project, comparison: Artifact
    ) -> None:
        """Write what a comparison found to the runs of its results, so that they can be compared by
        it.
        """
        for method, rows in difference_rows(comparison).items():
            if (fingerprint := comparison.parents.get(method)) is None:
                continue
            key = f"{comparison.key}/{method}"
            if run_id := self._log_now(client, project, DOMAIN_RESULTS, key, fingerprint):
                result = project.store.open(DOMAIN_RESULTS, key, fingerprint)
                log_rows(client, run_id, rows, self._log_inputs(client, project, result, run_id))


def _put(queue: Queue, artifact: Artifact, dagster_run_id: str) -> Path:
    identity = {
        "stage": artifact.stage,
        "key": artifact.key,
        "fingerprint": artifact.fingerprint,
    }
    return queue.put(slug_of(**identity), {**identity, "dagster_run_id": dagster_run_id})
