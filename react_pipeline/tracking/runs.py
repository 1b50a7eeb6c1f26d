"""The runs of one MLflow experiment: connecting, finding or opening an artifact's run, and writing
rows to it.

The log of a finished artifact (`log`) and that of a training under way (`live`) share it, so that
both mean the same run. Every function here raises whatever MLflow, its database or the network
raise.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.evaluation import METRICS
from react_pipeline.project import Project
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, locked
from react_pipeline.tracking.notes import NOTE_TAG, TRAINING_PAGES, mlflow_url
from react_pipeline.tracking.results import shown_differences
from react_pipeline.tracking.values import MAX_TAG_CHARS, TRAINING_PREFIX, MetricSource, Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

Entry = TypeVar("Entry")

PARENT_TAG = "react.parent"
ERROR_TAG, ERROR_TYPE_TAG = "error", "error.type"
"""Tags with the reason of a failure."""

EXPERIMENT_KIND_TAG, MODEL_DEVELOPMENT = "mlflow.experimentKind", "custom_model_development"
"""The kind that MLflow gives an experiment of trainings."""

DEFAULT_EXPERIMENT = "0"
FILES = "mlartifacts"
"""Folder of the runs' files, where no server keeps them."""
SQLITE = "sqlite:///"
_DATABASE = re.compile(r"(postgresql|mysql|mssql|sqlite)[+:]")

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

PAGE_RUNS = 250
"""Runs per request, so that the answer comes in time even where runs have many params and tags."""


@dataclass
class Runs:
    """The runs of one experiment, at one tracking URI; nothing is contacted before `connect`.

    Attributes:
        address: Where a browser finds MLflow, if it is configured.
        files: Folder of the runs' files, if the tracking URI is a database other than a SQLite
            file.
        experiment_id: MLflow's default one before `connect`.
    """

    uri: str
    experiment: str
    address: str | None = None
    files: Path | None = None
    experiment_id: str = DEFAULT_EXPERIMENT

    @classmethod
    def of(cls, project: Project) -> Runs:
        """Return the runs of a project, as its configuration names them."""
        config = project.config
        files = project.store.root.with_name(FILES)
        return cls(config.tracking_uri or "", config.project, config.mlflow_url, files)

    def url(self, run_id: str) -> str | None:
        """Return where a browser shows a run; None when the tracking URI is a database and no
        server over it is configured.
        """
        address = mlflow_url(self.address, self.uri)
        if not address:
            return None
        return f"{address}/#/experiments/{self.experiment_id}/runs/{run_id}?{TRAINING_PAGES}"

    def forget(self) -> None:
        """Look the experiment up again at the next `connect`: the server may have been replaced."""
        self.experiment_id = DEFAULT_EXPERIMENT

    def connect(self) -> MlflowClient:
        """Return a client; database and experiment are created where they are missing."""
        for variable, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            # It draws bars of empty folders.
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        from react_pipeline.extensions import tracking_guard

        is_new = self.experiment_id == DEFAULT_EXPERIMENT
        if not self.uri.startswith(SQLITE):
            tracking_guard.bound(self.uri)
            client = MlflowClient(self.uri, self.uri)
            if is_new:
                # A server decides for itself; without one MLflow would use the working folder of
                # this process.
                self._open_experiment(client, self.files if _DATABASE.match(self.uri) else None)
            return client
        database = Path(self.uri.removeprefix(SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that open a fresh database at once race its migration, and one of them dies.
        with locked(database.with_name(database.name + ".lock")):
            client = MlflowClient(self.uri, self.uri)
            if is_new:
                client.search_experiments(max_results=1)  # makes the tables
                tracking_guard.relocate(database)
                self._open_experiment(client, database.parent / FILES)
        return client

    def _open_experiment(self, client: MlflowClient, files: Path | None) -> None:
        from react_pipeline.extensions import tracking_guard, ui

        def find() -> list[Experiment]:
            return [one for one in [client.get_experiment_by_name(self.experiment)] if one]

        if not find():
            location = None if files is None else files.resolve().as_uri()
            tags = {EXPERIMENT_KIND_TAG: MODEL_DEVELOPMENT}
            client.create_experiment(self.experiment, location, tags)
        (experiment,) = find()
        if files is not None:
            tracking_guard.require_here(experiment, files)
        ui.save_views(client, experiment)
        self.experiment_id = experiment.experiment_id

    def open(
        self, client: MlflowClient, tags: Mapping[str, str], key: str, started_ms: int | None = None
    ) -> tuple[Run, bool]:
        """Return the run with the `asset` and `fingerprint` of these tags, and whether it was there
        already.

        It is created under the run of its domain. One that a killed or failed process left is
        resumed: it is RUNNING again and loses the reason of its failure. One that is FINISHED is
        returned as it is.
        """
        place = {name: tags[name] for name in ("asset", "fingerprint")}
        run = self.find(client, place)
        if run is None:
            group = key.split("/")[0]
            name = f"{tags['asset']} {key}"
            if key == ALL:
                group = "all domains" if tags["asset"] == "overview" else "corpus"
                name = tags["asset"]
            tags = {**tags, "mlflow.parentRunId": self._parent(client, group)}
            return self._create(client, place, tags, name, started_ms), False
        run_id = run.info.run_id
        if run.info.status != FINISHED:
            if run.info.status != RUNNING:
                client.update_run(run_id, RUNNING)
            for name in {ERROR_TAG, ERROR_TYPE_TAG} & set(run.data.tags):
                client.delete_tag(run_id, name)
            log_tags(client, run_id, tags)
        return run, True

    def find(self, client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
        """Return the run with these tags, a finished one first; others that are still RUNNING are
        closed.
        """
        runs = client.search_runs([self.experiment_id], _query(tags), max_results=10)
        finished = [run for run in runs if run.info.status == FINISHED]
        best = next(iter([*finished, *runs]), None)
        for run in runs:
            # A killed process may have left a second one open; nothing would ever close it.
            if run is not best and run.info.status == RUNNING:
                client.set_terminated(run.info.run_id, KILLED)
        return best

    def _create(
        self,
        client: MlflowClient,
        place: Mapping[str, str],
        tags: Mapping[str, str],
        name: str,
        started_ms: int | None = None,
    ) -> Run:
        return create_once(
            lambda: client.search_runs([self.experiment_id], _query(place), max_results=10),
            lambda: client.create_run(self.experiment_id, started_ms, dict(tags), run_name=name),
            lambda run: str(run.info.run_id),
            client.delete_run,
        )

    def finished(self, client: MlflowClient) -> set[str]:
        """Return the fingerprints of all artifacts that have a finished run."""
        fingerprints: set[str] = set()
        token = None
        while True:
            page = client.search_runs(
                [self.experiment_id],
                f"attributes.status = '{FINISHED}'",
                max_results=PAGE_RUNS,
                page_token=token,
            )
            fingerprints |= {run.data.tags.get("fingerprint", "") for run in page}
            if not (token := page.token):
                return fingerprints - {""}

    def close_abandoned(self, client: MlflowClient, artifact: Artifact) -> None:
        """Close what trainings with another configuration left RUNNING when they were killed: none
        will go on. One that does run is opened again when it is logged.
        """
        domain, method = artifact.key.split("/")
        tags = {"asset": artifact.stage, "domain": domain, "method": method}
        query = f"{_query(tags)} and attributes.status = '{RUNNING}'"
        for run in client.search_runs([self.experiment_id], query):
            if run.data.tags.get("fingerprint") != artifact.fingerprint:
                client.set_terminated(run.info.run_id, KILLED)

    def _parent(self, client: MlflowClient, group: str) -> str:
        """Return the run under which the UI folds all runs of a domain (or of the corpus)."""
        place = {PARENT_TAG: group}
        run = self.find(client, place)
        if run is None:
            note = (
                f"Everything of **{group}**: open a run below, or select several and press Compare."
            )
            run = self._create(client, place, {**place, NOTE_TAG: note}, group)
            client.set_terminated(run.info.run_id, FINISHED)
        return str(run.info.run_id)


def create_once(
    find: Callable[[], Sequence[Entry]],
    create: Callable[[], Entry],
    name: Callable[[Entry], str],
    delete: Callable[[str], object],
) -> Entry:
    """Return the entry that is there, or create it; processes that create one at once, on whatever
    hosts, end with one.

    A process that sees another entry next to its own deletes its own. So at most one stays: a
    process that sees its own alone was there before all others, and they see it. An entry may be
    deleted while another process uses it, which then fails and is repeated by the next log.
    """
    while True:
        if there := find():
            return there[0]
        created = create()
        if all(name(entry) == name(created) for entry in find()):
            return created
        delete(name(created))
        time.sleep(random.random())  # noqa: S311 - two that deleted theirs do not meet again


def _query(tags: Mapping[str, str]) -> str:
    """Return the query for runs that have all of these tags."""
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Write params; writing the same ones again changes nothing."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags, each cut at MLflow's limit."""
    from mlflow.entities import RunTag

    entries = [RunTag(name, value[:MAX_TAG_CHARS]) for name, value in tags.items()]
    client.log_batch(run_id, tags=entries)


def log_rows(
    client: MlflowClient, run_id: str, rows: Iterable[Row], source: MetricSource | None = None
) -> None:
    """Write metrics; those that rank models with their model and data set.

    MLflow draws a chart of every metric that a model has, and drops a row that it has with the same
    name, value, step and time.
    """
    from mlflow.entities import Metric

    # Others (counts, costs, bounds) belong to the run alone.
    ranking = {*METRICS, *shown_differences()}
    entries = []
    for row in rows:
        of_model = source if source is not None and row.name in ranking else ()
        entries.append(Metric(row.name, row.value, row.time_ms, row.step, *of_model))
    client.log_batch(run_id, metrics=entries)


def missing_rows(
    client: MlflowClient, run_id: str, rows: Iterable[Row], steps: dict[str, set[int]] | None = None
) -> list[Row]:
    """Return the rows whose step the run lacks; `steps` remembers the steps that the run has, by
    name, between calls.

    A training that resumes after it was killed repeats the steps after its last state at other
    times, so that equal steps need not be equal rows.
    """
    steps = {} if steps is None else steps
    missing = []
    for row in rows:
        if row.name.startswith(TRAINING_PREFIX):
            if row.name not in steps:
                history = client.get_metric_history(run_id, row.name)
                steps[row.name] = {point.step for point in history}
            if row.step in steps[row.name]:
                continue
        missing.append(row)
    return missing
