"""Tracking: every published artifact as one MLflow run, written once and never at the cost of a result.

Belongs here: what of an artifact goes to MLflow, the model registry, and the queue of what could not be logged yet.
Does not belong here: how a run is found (`tracking.runs`), a training under way (`tracking.live`), deciding what is
champion.

An artifact is on disk before its run is written. It is queued in `<store>/.pending_tracking` first and leaves the
queue when its run is FINISHED, so a server that is down or a killed process delays a run and never loses or doubles
it: the `fingerprint` tag finds what is already there.
"""

from __future__ import annotations

import json
import logging
import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.evaluation import RESULTS
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact, locked
from react_pipeline.tracking.notes import dagster_url
from react_pipeline.tracking.queue import PENDING, Queue, reason_of
from react_pipeline.tracking.results import cost_rows, difference_rows
from react_pipeline.tracking.runs import FINISHED, KILLED, Runs, log_params, log_rows, missing_rows
from react_pipeline.tracking.system import read_spooled, spool_file
from react_pipeline.tracking.values import created_ms, files_of, metrics_of, params_of, tags_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel

logger = logging.getLogger(__name__)

LIVE_STAGES = ("customized_checkpoint",)
"""Stages that have a run while they are built."""

DATASET_STAGES = {"retrieved_set": "training", "control_set": "training", "evaluation_set": "evaluation"}
"""Stages that are data sets to MLflow, and the context in which a run reads them."""


class Tracking:
    """The MLflow runs of one project, at one tracking URI."""

    def __init__(self, uri: str, experiment: str, address: str | None = None) -> None:
        """Nothing is contacted before the first artifact is logged; `address` is as in `Runs`."""
        self.uri = uri
        self.experiment = experiment
        self.runs = Runs(uri, experiment, address)

    @classmethod
    def of(cls, project: Project, uri: str | None = None) -> Tracking:
        """Tracking as the project's configuration says, or at another `uri`."""
        return cls(uri or project.config.tracking_uri or "", project.config.project, project.config.mlflow_url)

    def log_artifact(self, project: Project, artifact: Artifact, dagster_run_id: str = "") -> str | None:
        """Log one artifact, and whatever an earlier call could not log; returns the id of the artifact's run.

        Safe to repeat: an artifact that is logged already costs one look-up. Returns None, with a warning, when
        MLflow does not answer; the artifact stays queued then.
        """
        entry = self._put(project, artifact, dagster_run_id)
        return self._log_queue(project, artifact, dagster_run_id).get(entry.name)

    def log_pending(self, project: Project, *, patient: bool = False) -> dict[str, str]:
        """Log everything queued; returns the run id of each entry that is logged now, by file name.

        Args:
            project: The pipeline whose queue it is.
            patient: Try even if the server failed a moment ago.
        """
        return self._log_queue(project, patient=patient)

    def _log_queue(
        self, project: Project, artifact: Artifact | None = None, dagster_run_id: str = "", *, patient: bool = False
    ) -> dict[str, str]:
        queue = self._queue(project)
        if not queue.entries() or queue.rests(patient=patient):
            return {}
        runs: dict[str, str] = {}
        with locked(project.store.root / ".locks" / "tracking.lock"):
            if artifact is not None:
                # Another process may have logged it while this one waited; its run is wanted all the same.
                self._put(project, artifact, dagster_run_id)
            try:
                client = self.runs.connect()
                self._log_entries(client, project, runs)
                if artifact is not None and artifact.stage in LIVE_STAGES:
                    self._close_abandoned(client, project, artifact)
            except Exception as error:  # whatever MLflow, its database or the network raise
                self.runs.forget()
                queue.rest(error)
        return runs

    def _queue(self, project: Project) -> Queue:
        return Queue(self.uri, project.store.root / PENDING)

    def _put(self, project: Project, artifact: Artifact, dagster_run_id: str) -> Path:
        identity = {"stage": artifact.stage, "key": artifact.key, "fingerprint": artifact.fingerprint}
        return self._queue(project).put(_name(**identity), {**identity, "dagster_run_id": dagster_run_id})

    def _log_entries(self, client: MlflowClient, project: Project, runs: dict[str, str]) -> None:
        """Log what waits into `runs`, longest waiting first.

        One failure among successes is the entry's own; two in a row, or nothing else, is the server's.

        Raises:
            Exception: Whatever MLflow raised then.
        """
        failed: dict[str, Exception] = {}
        in_a_row = 0
        for entry in sorted(self._queue(project).entries(), key=lambda path: path.stat().st_mtime):
            try:
                runs[entry.name] = self._log_entry(client, project, json.loads(entry.read_text()))
            except Exception as error:
                entry.touch()  # to the end of the queue, so that bad entries delay the others only once
                in_a_row += 1
                if in_a_row > 1:
                    raise
                failed[entry.stem] = error
            else:
                entry.unlink()
                in_a_row = 0
        for name, reason in failed.items():
            if not any(runs.values()):
                raise reason
            logger.warning(
                "%s could not be logged to MLflow, trying again at the next run: %s", name, reason_of(reason)
            )

    def _close_abandoned(self, client: MlflowClient, project: Project, artifact: Artifact) -> None:
        """Close what trainings with another configuration left RUNNING when they were killed: none will go on."""
        wanted = {"asset": artifact.stage, "domain": artifact.key.split("/")[0], "method": artifact.key.split("/")[1]}
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        for run in client.search_runs([self.runs.experiment_id], f"{query} and attributes.status = 'RUNNING'"):
            fingerprint = run.data.tags.get("fingerprint", "")
            if fingerprint != artifact.fingerprint and not project.store.is_building(
                artifact.stage, artifact.key, fingerprint
            ):
                client.set_terminated(run.info.run_id, KILLED)

    def logged(self, project: Project) -> set[str] | None:
        """Fingerprints of the artifacts that are logged; None, with a warning, when MLflow does not answer."""
        if (queue := self._queue(project)).rests():
            return None
        try:
            return self.runs.finished(self.runs.connect())
        except Exception as error:  # whatever MLflow, its database or the network raise
            self.runs.forget()
            queue.rest(error)
            return None

    def url(self, run_id: str) -> str | None:
        """Where a browser shows a run; None for a database over which no server is known: `ui` starts one."""
        return self.runs.url(run_id)

    def count_pending(self, project: Project) -> int:
        """How many artifacts wait to be logged."""
        return len(self._queue(project).entries())

    def prepare(self) -> None:
        """Create the database and the experiment, so that programs which open them later find them whole.

        Raises:
            Exception: Whatever MLflow raises when it cannot be reached.
        """
        self.runs.connect()

    def _log_entry(self, client: MlflowClient, project: Project, entry: dict[str, str]) -> str:
        try:
            artifact = project.store.open(entry["stage"], entry["key"], entry["fingerprint"])
        except (MissingArtifact, CorruptArtifact):
            return ""  # pruned or spoilt since; what replaces it is logged for itself
        started = created_ms(artifact) - round(1000 * float(artifact.counts.get("seconds") or 0))
        tags = tags_of(artifact, entry["dagster_run_id"], dagster_url(project))
        run, found = self.runs.open(client, tags, artifact.key, started)
        run_id = str(run.info.run_id)
        if run.info.status == FINISHED:
            return run_id
        log_params(client, run_id, params_of(artifact))
        # What a live training or a killed call has written stays as it is; only what is missing is added.
        spooled = spool_file(project.store.root / PENDING, artifact.fingerprint)
        rows = chain(metrics_of(artifact), cost_rows(project, artifact), read_spooled(spooled))
        log_rows(client, run_id, missing_rows(client, run_id, rows) if found else rows)
        spooled.unlink(missing_ok=True)
        for path in files_of(artifact):
            client.log_artifact(run_id, str(path))
        if datasets := _datasets(artifact):
            client.log_inputs(run_id, datasets=datasets)
        if artifact.stage == "customized_checkpoint":
            self._register(client, artifact, run_id)
        if artifact.stage == "comparison":
            self._log_differences(client, project, artifact)
        client.set_terminated(run_id, FINISHED, created_ms(artifact))
        return run_id

    def _log_differences(self, client: MlflowClient, project: Project, comparison: Artifact) -> None:
        """Write what a comparison found to the runs of its results, so that they can be compared by it."""
        for method, rows in difference_rows(comparison).items():
            if (fingerprint := comparison.parents.get(method)) is None:
                continue
            result = {"stage": RESULTS, "key": f"{comparison.key}/{method}", "fingerprint": fingerprint}
            waiting = project.store.root / PENDING / f"{_name(**result)}.json"
            entry = json.loads(waiting.read_text()) if waiting.exists() else {**result, "dagster_run_id": ""}
            # Its run may still wait in the queue behind this one; logging it twice costs one look-up.
            if run_id := self._log_entry(client, project, entry):
                # The cost once more, for runs that were finished before results had it.
                log_rows(client, run_id, [*rows, *cost_rows(project, project.store.open(**result))])

    def _register(self, client: MlflowClient, artifact: Artifact, run_id: str) -> None:
        """A version of `react-<domain>` that points at the safetensors in the store; nothing is pickled or copied."""
        domain, method = artifact.key.split("/")
        name = f"react-{domain}"
        tags = {"fingerprint": artifact.fingerprint, "method": method, "path": str(artifact.path)}
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"CLIP customized to the domain {domain!r} by REACT")
        if client.search_model_versions(f"name = '{name}' and tags.fingerprint = '{artifact.fingerprint}'"):
            return
        model = self._logged_model(client, artifact, run_id, tags)
        # `models:/<id>` would be looked up at MLflow's global tracking URI, which need not be this one.
        client.create_model_version(
            name, model.artifact_location, run_id, tags=tags, await_creation_for=0, model_id=model.model_id
        )

    def _logged_model(self, client: MlflowClient, artifact: Artifact, run_id: str, tags: dict[str, str]) -> LoggedModel:
        # As mlflow.create_external_model does, without its global state (active run, tracking URI).
        from mlflow.models.utils import get_external_mlflow_model_spec

        name = artifact.key.replace("/", "-")
        external = {**tags, "mlflow.model.isExternal": "true"}
        model = client.create_logged_model(self.runs.experiment_id, name, run_id, tags=external, model_type="open_clip")
        with tempfile.TemporaryDirectory() as directory:
            get_external_mlflow_model_spec(model).save(str(Path(directory) / "MLmodel"))
            client.log_model_artifacts(model.model_id, directory)
        return client.finalize_logged_model(model.model_id, "READY")


def _name(stage: str, key: str, fingerprint: str) -> str:
    return f"{stage}--{key.replace('/', '--')}--{fingerprint}"


def _datasets(artifact: Artifact) -> list[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    read = {**artifact.parents, artifact.stage: artifact.fingerprint}
    key = artifact.key.split("/")[0]
    root = artifact.path.parents[2 + artifact.key.count("/")]
    return [
        DatasetInput(
            Dataset(
                name=f"{stage}-{key}",
                digest=fingerprint,
                source_type="local",
                source=json.dumps({"uri": str(root / stage / key / fingerprint)}),
            ),
            [InputTag("mlflow.data.context", DATASET_STAGES[stage])],
        )
        for stage, fingerprint in read.items()
        if stage in DATASET_STAGES
    ]
