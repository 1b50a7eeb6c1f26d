"""Tracking: every published artifact as one MLflow run, written once and never at the cost of a result.

Belongs here: what of an artifact goes to MLflow, the runs' tags, the model registry, and the queue of what could not
be logged yet. This is the only module that imports mlflow. Does not belong here: deciding what is champion.

An artifact is on disk before its run is written. It is queued in `<store>/.pending_tracking` first and leaves the
queue when its run is FINISHED, so a server that is down or a killed process delays a run and never loses or doubles
it: the `fingerprint` tag finds what is already there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.artifacts import Artifact
from react_pipeline.durable import write_atomically
from react_pipeline.errors import CorruptArtifact, MissingArtifact
from react_pipeline.lineage import ALL, Project
from react_pipeline.tracked_values import created_ms, files_of, metrics_of, params_of, tags_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel, Run

logger = logging.getLogger(__name__)

PENDING = ".pending_tracking"
COOLDOWN_SECONDS = 60.0
"""After a failure a tracking server is left alone for this long, so that a slow one does not slow every asset."""

DATASET_STAGES = {"retrieved_set": "training", "control_set": "training", "evaluation_set": "evaluation"}
"""Stages that are data sets to MLflow, and the context in which a run reads them."""

CHALLENGER_METHOD = "gated-image"
PARENT_TAG = "react.parent"

_unreachable_until: dict[str, float] = {}


class Tracking:
    """The MLflow runs of one project, at one tracking URI."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Nothing is contacted before the first artifact is logged."""
        self.uri = uri
        self.experiment = experiment
        self._experiment_id: str | None = None

    @classmethod
    def of(cls, project: Project, uri: str | None = None) -> Tracking:
        """Tracking as the project's configuration says, or at another `uri`."""
        return cls(uri or project.config.tracking_uri or "", project.config.project)

    def log_artifact(self, project: Project, artifact: Artifact, dagster_run_id: str = "") -> str | None:
        """Log one artifact, and whatever an earlier call could not log; returns the id of the artifact's run.

        Safe to repeat: an artifact that is logged already costs one look-up. Returns None, with a warning, when
        MLflow does not answer; the artifact stays queued then.
        """
        entry = _queue(project, artifact, dagster_run_id)
        return self._log_queue(project, artifact, dagster_run_id).get(entry.name)

    def log_pending(self, project: Project, *, patient: bool = False) -> dict[str, str]:
        """Log everything queued; returns the run id of each entry that is logged now, by file name.

        Args:
            project: The pipeline whose queue it is.
            patient: Try even if the server failed within the last `COOLDOWN_SECONDS`.
        """
        if patient:
            _unreachable_until.pop(self.uri, None)
        return self._log_queue(project)

    def _log_queue(
        self, project: Project, artifact: Artifact | None = None, dagster_run_id: str = ""
    ) -> dict[str, str]:
        if not self.count_pending(project) or time.monotonic() < _unreachable_until.get(self.uri, 0.0):
            return {}
        runs: dict[str, str] = {}
        with _locked(project.store.root / ".locks" / "tracking.lock"):
            if artifact is not None:
                # Another process may have logged it while this one waited; its run is wanted all the same.
                _queue(project, artifact, dagster_run_id)
            entry = None
            try:
                client = self._connect()
                for entry in _queued(project):
                    runs[entry.name] = self._log_entry(client, project, json.loads(entry.read_text()))
                    entry.unlink()
            except Exception as error:  # whatever MLflow, its database or the network raise: the result is safe
                if entry is not None:
                    entry.touch()  # to the end of the queue, so that one bad entry never holds up the others
                _unreachable_until[self.uri] = time.monotonic() + COOLDOWN_SECONDS
                self._experiment_id = None
                reason = " ".join(str(error).split())[:300]
                logger.warning("MLflow at %s is unavailable, logging again at the next run: %s", self.uri, reason)
        return runs

    def url(self, run_id: str) -> str | None:
        """Where a browser shows a run; None when the tracking URI is a database, for which `ui` starts a server."""
        if not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment_id or 0}/runs/{run_id}"

    def count_pending(self, project: Project) -> int:
        """How many artifacts wait to be logged."""
        return len(list((project.store.root / PENDING).glob("*.json")))

    def prepare(self) -> None:
        """Create the database and the experiment, so that programs which open them later find them whole.

        Raises:
            Exception: Whatever MLflow raises when it cannot be reached.
        """
        self._connect()

    def _connect(self) -> MlflowClient:
        # Slow retries would hold up a run whose result is on disk already; a user's own settings win.
        for variable, value in {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        if not self.uri.startswith("sqlite:///"):
            return self._with_experiment(MlflowClient(self.uri, self.uri), None)
        database = Path(self.uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that open a fresh database at once race its migration, and one of them dies.
        with _locked(database.with_name(database.name + ".lock")):
            return self._with_experiment(MlflowClient(self.uri, self.uri), database.parent / "mlartifacts")

    def _with_experiment(self, client: MlflowClient, artifacts: Path | None) -> MlflowClient:
        if self._experiment_id is None:
            found = client.get_experiment_by_name(self.experiment)
            location = None if artifacts is None else artifacts.resolve().as_uri()
            self._experiment_id = found.experiment_id if found else client.create_experiment(self.experiment, location)
        return client

    def _log_entry(self, client: MlflowClient, project: Project, entry: dict[str, str]) -> str:
        try:
            artifact = project.store.open(entry["stage"], entry["key"], entry["fingerprint"])
        except (MissingArtifact, CorruptArtifact):
            return ""  # pruned or spoilt since; what replaces it is logged for itself
        tags = tags_of(artifact, entry["dagster_run_id"])
        run = self._find(client, {"asset": artifact.stage, "fingerprint": artifact.fingerprint})
        if run is not None and run.info.status == "FINISHED":
            return str(run.info.run_id)
        parent_id = self._parent(client, "corpus" if artifact.key == ALL else artifact.key.split("/")[0])
        if run is None:
            name = artifact.stage if artifact.key == ALL else f"{artifact.stage} {artifact.key}"
            started = created_ms(artifact) - round(1000 * float(artifact.counts.get("seconds") or 0))
            run = client.create_run(
                self._experiment_id or "0", started, {**tags, "mlflow.parentRunId": parent_id}, run_name=name
            )
        run_id = run.info.run_id
        _log_values(client, run_id, artifact)
        for path in files_of(artifact):
            client.log_artifact(run_id, str(path))
        if datasets := _datasets(artifact):
            client.log_inputs(run_id, datasets=datasets)
        if artifact.stage == "customized_checkpoint":
            self._register(client, artifact, run_id)
        client.set_terminated(run_id, "FINISHED", created_ms(artifact))
        return str(run_id)

    def _find(self, client: MlflowClient, tags: dict[str, str]) -> Run | None:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = client.search_runs([self._experiment_id or "0"], query, max_results=10)
        finished = [run for run in runs if run.info.status == "FINISHED"]
        chosen = next(iter([*finished, *runs]), None)
        for run in runs:
            # A killed process may have left a second one open; nothing would ever close it.
            if run is not chosen and run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
        return chosen

    def _parent(self, client: MlflowClient, group: str) -> str:
        """The run under which the UI folds all runs of a domain (or of the corpus)."""
        run = self._find(client, {PARENT_TAG: group})
        if run is None:
            run = client.create_run(self._experiment_id or "0", tags={PARENT_TAG: group}, run_name=group)
            client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

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
        version = client.create_model_version(
            name, model.artifact_location, run_id, tags=tags, await_creation_for=0, model_id=model.model_id
        )
        if method == CHALLENGER_METHOD:
            client.set_registered_model_alias(name, "challenger", version.version)

    def _logged_model(self, client: MlflowClient, artifact: Artifact, run_id: str, tags: dict[str, str]) -> LoggedModel:
        # As mlflow.create_external_model does, without its global state (active run, tracking URI).
        from mlflow.models.utils import get_external_mlflow_model_spec

        experiment = self._experiment_id or "0"
        name = artifact.key.replace("/", "-")
        external = {**tags, "mlflow.model.isExternal": "true"}
        model = client.create_logged_model(experiment, name, run_id, tags=external, model_type="open_clip")
        with tempfile.TemporaryDirectory() as directory:
            get_external_mlflow_model_spec(model).save(str(Path(directory) / "MLmodel"))
            client.log_model_artifacts(model.model_id, directory)
        return client.finalize_logged_model(model.model_id, "READY")


def _queue(project: Project, artifact: Artifact, dagster_run_id: str) -> Path:
    name = f"{artifact.stage}--{artifact.key.replace('/', '--')}--{artifact.fingerprint}.json"
    entry = project.store.root / PENDING / name
    if not entry.exists():
        identity = {"stage": artifact.stage, "key": artifact.key, "fingerprint": artifact.fingerprint}
        write_atomically(entry, json.dumps({**identity, "dagster_run_id": dagster_run_id}))
    return entry


def _queued(project: Project) -> list[Path]:
    """What waits to be logged, longest waiting first; call it with the lock held, so that none vanishes meanwhile."""
    return sorted((project.store.root / PENDING).glob("*.json"), key=lambda path: path.stat().st_mtime)


def _log_values(client: MlflowClient, run_id: str, artifact: Artifact) -> None:
    from mlflow.entities import Metric, Param

    created = created_ms(artifact)
    params = [Param(name, value) for name, value in params_of(artifact).items()]
    for start in range(0, len(params), 100):  # MLflow's limits per call: 100 params, 1,000 metrics
        client.log_batch(run_id, params=params[start : start + 100])
    # The time is the artifact's, not the clock's: logging again after a kill writes the same rows, not more.
    metrics = [Metric(name, value, created, step) for name, value, step in metrics_of(artifact)]
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
