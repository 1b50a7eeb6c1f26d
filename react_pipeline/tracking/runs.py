"""The runs of one MLflow experiment: connecting, finding or opening an artifact's run, and writing
to it.

The log of a finished artifact (`log`) and that of a training under way (`live`) share it, so that
both mean the same run. Every function here raises whatever MLflow, its database or the network
raise.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from react_pipeline.evaluation import METRICS
from react_pipeline.project import Project
from react_pipeline.stage import ALL, DOMAIN_RESULTS, domain_and_method
from react_pipeline.store import Artifact, Inputs, ReactError, locked
from react_pipeline.tracking.notes import NOTE_TAG, TRAINING_PAGES, dagster_url, mlflow_url
from react_pipeline.tracking.values import (
    DAGSTER_RUN_TAG,
    LOSS,
    MAX_TAG_CHARS,
    TRAINING_PREFIX,
    Row,
    run_params,
    run_tags,
    shown_differences,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)
Entry = TypeVar("Entry")

PARENT_TAG = "react.parent"
ERROR_TAG, ERROR_TYPE_TAG = "error", "error.type"
"""Tags with the reason of a failure."""

EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")
"""Tag of the kind that MLflow gives an experiment of trainings."""

DEFAULT_EXPERIMENT = "0"
SQLITE = "sqlite:///"
_DATABASE = re.compile(r"(postgresql|mysql|mssql|sqlite)[+:]")

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

PAGE_RUNS = 250
"""Runs per request, so that the answer comes in time even where runs have many params and tags."""

VARIABLES = {
    # A server that hangs costs a command some seconds, and not MLflow's 120 times 8.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Requests of the tracking API are POST, which a redirect turns into GET.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # It draws bars of empty folders.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Our defaults of MLflow's own variables; what the environment sets wins."""

FILES = "mlartifacts"
"""Folder of the runs' files, where no server keeps them."""

_COLUMNS = """
SELECT tables.name, columns.name
FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns
WHERE tables.type = 'table' AND tables.name NOT LIKE '%metrics' AND tables.name <> 'spans'
AND (columns.type LIKE 'VARCHAR%' OR columns.type LIKE 'TEXT%')
"""
"""All columns of texts, since a later MLflow may keep locations in others; not those of tables with
millions of rows, which have no location.
"""


class Runs:
    """The runs of one project, which is one experiment; nothing is contacted before `connect`.

    Attributes:
        uri: The tracking URI.
        experiment_id: MLflow's default one before `connect`.
        client: Set by `connect`.
    """

    client: MlflowClient

    def __init__(self, project: Project) -> None:
        """Read from the configuration where the runs are."""
        self.project = project
        self.uri = project.config.tracking_uri or ""
        self.experiment_id = DEFAULT_EXPERIMENT

    def url(self, run_id: str) -> str | None:
        """Return where a browser shows a run; None when the tracking URI is a database and no
        server over it is configured.
        """
        address = mlflow_url(self.project.config.mlflow_url, self.uri)
        if not address:
            return None
        return f"{address}/#/experiments/{self.experiment_id}/runs/{run_id}?{TRAINING_PAGES}"

    def connect(self) -> MlflowClient:
        """Connect `client`; database and experiment are created where they are missing."""
        for variable, value in VARIABLES.items():
            os.environ.setdefault(variable, value)
        if not self.uri.startswith(SQLITE):
            # A server decides for itself; without one MLflow would use the working folder of this
            # process.
            beside = self.project.store.root.with_name(FILES)
            return self._connect(beside if _DATABASE.match(self.uri) else None)
        database = Path(self.uri.removeprefix(SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that open a fresh database at once race its migration, and one of them dies.
        with locked(database.with_name(database.name + ".lock")):
            return self._connect(database.parent / FILES, database)

    def _connect(self, files: Path | None, database: Path | None = None) -> MlflowClient:
        from mlflow import MlflowClient

        from react_pipeline.extensions import ui

        self.client = MlflowClient(self.uri, self.uri)
        # Each time, since the server may have been replaced.
        name = self.project.config.project
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = files.resolve().as_uri() if files else None
            kind = dict([EXPERIMENT_KIND])
            created = self.client.create_experiment(name, location, kind)
            experiment = self.client.get_experiment(created)
        elif files is not None:
            follow_project(experiment.artifact_location, files.resolve(), database)
        self.experiment_id = experiment.experiment_id
        ui.save_views(self.client, experiment)
        return self.client

    def require_answer(self) -> None:
        """Raise what MLflow raises if it takes not even a tag that is there already."""
        self.client.set_experiment_tag(self.experiment_id, *EXPERIMENT_KIND)

    def open(self, source: Artifact | Inputs, dagster_run_id: str, started_ms: int) -> Run:
        """Return the run of an artifact, or of what is still being made, with its params and tags.

        It is created under the run of its domain. One that a killed or failed process left is
        resumed: it is RUNNING again and loses the reason of its failure. One that is FINISHED is
        returned as it is, and only learns which Dagster run it is of.
        """
        stage, key = source.stage, source.key
        group, _, _ = key.partition("/")
        # Domain and method come first: pages that compare runs cut long names.
        name = key if stage == DOMAIN_RESULTS else f"{key} {stage}"
        if key == ALL:
            group = "all domains" if stage == "overview" else "corpus"
            name = stage
        own_tags = run_tags(source, dagster_run_id, dagster_url(self.project.config.dagster_url))
        tags = {**own_tags, **self._origin(), "mlflow.parentRunId": self._parent(group)}
        run = self._only(("asset", "fingerprint"), name, tags, started_ms)
        run_id = run.info.run_id
        if run.info.status != FINISHED:
            self.client.update_run(run_id, RUNNING)
            for reason in {ERROR_TAG, ERROR_TYPE_TAG} & set(run.data.tags):
                self.client.delete_tag(run_id, reason)
            self.write(run_id, params=run_params(source), tags=tags)
        elif dagster_run_id and DAGSTER_RUN_TAG not in run.data.tags:
            self.write(run_id, tags=own_tags)  # whoever made it stays
        return run

    def _origin(self) -> dict[str, str]:
        """Return MLflow's own tags: who made a run, from which project and git commit."""
        from mlflow.tracking.context.registry import resolve_tags
        from mlflow.utils.git_utils import get_git_commit

        path = str(self.project.path)
        tags = {**resolve_tags(), "mlflow.source.name": path}
        if commit := get_git_commit(path):
            tags["mlflow.source.git.commit"] = commit
        return tags

    def find(self, tags: Mapping[str, str]) -> list[Run]:
        """Return the runs with these tags, finished ones first."""
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = self.client.search_runs([self.experiment_id], query)
        return sorted(runs, key=lambda run: (run.info.status != FINISHED, run.info.run_id))

    def _only(
        self,
        place: Collection[str],
        name: str,
        tags: Mapping[str, str],
        started_ms: int | None = None,
    ) -> Run:
        """Return the run that has some of these tags, created with all of them."""
        return only(
            lambda: self.find({tag: tags[tag] for tag in place}),
            lambda: self.client.create_run(
                self.experiment_id, started_ms, dict(tags), run_name=name
            ),
            lambda run: self.client.delete_run(run.info.run_id),
        )

    def _parent(self, group: str) -> str:
        """Return the run under which the UI folds all runs of a domain (or of the corpus)."""
        note = f"Everything of **{group}**: open a run below, or select several and press Compare."
        run = self._only([PARENT_TAG], group, {PARENT_TAG: group, NOTE_TAG: note})
        if run.info.status != FINISHED:
            self.client.set_terminated(run.info.run_id, FINISHED)
        return str(run.info.run_id)

    def write(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        rows: Sequence[Row] = (),
        without: Collection[int] = (),
    ) -> None:
        """Write params, tags (cut at MLflow's limit) and metrics; the same ones again change
        nothing.

        Metrics that rank models get the model and the data set of the run. Others (counts, costs,
        bounds) belong to the run alone, since MLflow draws a chart of every metric that a model
        has.

        Args:
            without: Steps of a training that are left out.
        """
        from mlflow.entities import Metric, Param, RunTag

        ranking = {*METRICS, *shown_differences()}.intersection(row.name for row in rows)
        source = self._measured_on(run_id) if ranking else {}
        metrics = [
            Metric(
                row.name,
                row.value,
                row.time_ms,
                row.step,
                **(source if row.name in ranking else {}),
            )
            for row in rows
            if row.step not in without or not row.name.startswith(TRAINING_PREFIX)
        ]
        self.client.log_batch(
            run_id,
            metrics,
            [Param(*param) for param in (params or {}).items()],
            [RunTag(name, value[:MAX_TAG_CHARS]) for name, value in (tags or {}).items()],
        )

    def _measured_on(self, run_id: str) -> dict[str, str]:
        """Return the model and the data set of a run, as MLflow's `Metric` names them."""
        source: dict[str, str] = {}
        if inputs := self.client.get_run(run_id).inputs:
            for entry in inputs.dataset_inputs[:1]:
                source["dataset_name"] = entry.dataset.name
                source["dataset_digest"] = entry.dataset.digest
            for model in inputs.model_inputs[:1]:
                source["model_id"] = model.model_id
        return source

    def logged_steps(self, run: Run) -> set[int]:
        """Return the steps of a training that its run had when it was opened.

        One that resumes after it was killed repeats the steps after its last state at other times,
        and MLflow would show both.
        """
        if LOSS not in run.data.metrics:
            return set()
        history = self.client.get_metric_history(run.info.run_id, LOSS)
        return {point.step for point in history}

    def close_abandoned(self, checkpoint: Artifact) -> None:
        """Close what trainings with another configuration left RUNNING when they were killed: none
        will go on. One that does run is opened again when it is logged.

        Args:
            checkpoint: Whose own run is closed already.
        """
        domain, method = domain_and_method(checkpoint.key)
        for run in self.find({"asset": checkpoint.stage, "domain": domain, "method": method}):
            if run.info.status == RUNNING:
                self.client.set_terminated(run.info.run_id, KILLED)

    def finished(self) -> set[str]:
        """Return the fingerprints of all artifacts that have a finished run."""
        query, token = f"attributes.status = '{FINISHED}'", None
        found: set[str] = set()
        while True:
            page = self.client.search_runs([self.experiment_id], query, 1, PAGE_RUNS, None, token)
            found |= {run.data.tags.get("fingerprint", "") for run in page}
            if not (token := page.token):
                return found - {""}  # those that group others


def only(
    find: Callable[[], Sequence[Entry]],
    create: Callable[[], object],
    delete: Callable[[Entry], object],
) -> Entry:
    """Return the first entry that is found, created if there is none; the others are deleted.

    Of processes that create one at once, on whatever hosts, all that look later keep the same. A
    process that still writes to one that was deleted fails, and its artifact is logged again.
    """
    entries = find()
    if not entries:
        create()
        entries = find()
    first, *others = entries
    for other in others:
        delete(other)
    return first


def follow_project(location: str, files: Path, database: Path | None) -> None:
    """Let MLflow name the folder that a project's files are in now.

    MLflow keeps the absolute location of the files of every experiment, run and model. In a moved
    project they lead nowhere, and in a copy they lead into the original, which the copy would then
    write to.

    Args:
        location: Of the experiment, as MLflow knows it.
        files: The folder, which may be missing yet.
        database: The SQLite file, whose paths are rewritten in one transaction.

    Raises:
        ReactError: If a database on a server names another folder. Unlike a file it does not show
            whether the project was moved or copied.
    """
    former = Path(unquote(urlsplit(location).path))
    if not location.startswith("file:") or former.name != FILES:
        return
    if former == files or (former.exists() and files.exists() and former.samefile(files)):
        return
    if database is None:
        raise ReactError(
            f"the files of this experiment are in {former}, of a project at another place. Is this "
            "a copy: set another `project` in pipeline.yaml. Was it moved: "
            f"mkdir -p {former.parent}; ln -s {files} {former.parent}"
        )
    old, new = former.parent, files.parent
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in connection.execute(_COLUMNS).fetchall():
            # A location is a URI, also within JSON, or a path.
            connection.execute(
                f'UPDATE "{table}" SET "{column}" = replace(CASE'  # noqa: S608
                f' WHEN substr("{column}", 1, length(?1)) = ?1'
                f' THEN ?2 || substr("{column}", length(?1) + 1) ELSE "{column}" END, ?3, ?4)'
                f' WHERE instr("{column}", ?1) OR instr("{column}", ?3)',
                (f"{old}/", f"{new}/", f"{old.as_uri()}/", f"{new.as_uri()}/"),
            )
    logger.warning("%s was at %s before: MLflow's locations now name the new place", new, old)
