"""Launching: materialize assets from the command line, in one process, on the real Dagster
instance.

Belongs here: which runs a selection becomes, in which order, which of them are needed, what happens
after one fails. Does not belong here: what is out of date (`react_pipeline.lineage`), what a killed
process leaves behind (`runs`). Every run makes one artifact and looks in the UI like one that was
started there. One process for all of them imports torch and loads the definitions once.
"""

import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy

from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.definitions import build_defs, without_warnings
from react_pipeline.assets.domain_files import changed_files
from react_pipeline.assets.partitions import DOMAINS, to_partition_key
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.retries import INTERRUPTED
from react_pipeline.assets.runs import (
    COMMAND_LINE,
    USER_TAG,
    failure_reason,
    reap_abandoned,
    run_of_last,
    shown_alive,
    tags_of_key,
)
from react_pipeline.failures import is_checked
from react_pipeline.lineage import parents_of, up_to_date
from react_pipeline.preflight import (
    corpus_problems,
    domain_problems,
    embedding_problems,
    encoder_problems,
    store_problems,
)
from react_pipeline.project import HOME_VARIABLE, Manifests, Project, prepare_home
from react_pipeline.settings import Method, load_domains
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CORPUS,
    CORPUS_EMBEDDINGS,
    RETRIEVAL_CHECKPOINT,
    STAGES,
    Place,
    domain_and_method,
)
from react_pipeline.stop import raise_if_stopped
from react_pipeline.store import Artifact, ConfigError, InputError, ReactError
from react_pipeline.tracking import Tracking

logger = logging.getLogger(__name__)
OnLine = Callable[[str], None]

HELD_DATABASES = 8
"""Those of the instance, and of the last runs."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Configuration of a run that leaves the terminal to `on_line`."""


@dataclass
class Summary:
    """The result for all assets: how many were built, or were up to date; why others failed or were
    skipped.
    """

    seconds: float = 0.0
    built: int = 0
    reused: int = 0
    failed: dict[Place, str] = field(default_factory=dict)
    skipped: dict[Place, str] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)


def open_instance(project: Project) -> dg.DagsterInstance:
    """Open the Dagster instance: `DAGSTER_HOME`, or the `dagster_home` next to the project's
    `pipeline.yaml`.

    Raises:
        InputError: If that folder cannot be written.
    """
    os.environ[HOME_VARIABLE] = str(prepare_home(project.path.parent))
    instance = dg.DagsterInstance.get()
    # Dagster's queries of assets make the tables that are missing if the first process was stopped
    # while it made them; those of partitions refuse such a database.
    instance.has_asset_key(dg.AssetKey(BASE_CHECKPOINT))
    return instance


@contextmanager
def held_open(home: Path) -> Iterator[None]:
    """Write SQLite databases below a Dagster home without waiting for the disk at each event.

    Dagster connects for each event, and the connection that is closed last moves the write-ahead
    log into the database and waits for the disk: here one more stays open. A killed process loses
    nothing; a power cut loses the last events at most, never the database.
    """
    held: dict[str, sqlite3.Connection] = {}
    lock = threading.Lock()  # Dagster connects in several threads

    def connected(connection: Any, _record: Any) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        # Reading the mode of a locked database would wait for its lock.
        if not Path(path).is_relative_to(home):
            return
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            connection.execute("PRAGMA synchronous=NORMAL")
            with lock:
                last = held.pop(path) if path in held else None
                held[path] = last or sqlite3.connect(path, check_same_thread=False)
                held[path].execute("SELECT count(*) FROM sqlite_master").fetchall()  # opens the log
                if len(held) > HELD_DATABASES:
                    held.pop(next(iter(held))).close()

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", connected)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", connected)
        for connection in held.values():
            connection.close()


def materialize(
    selection: str = "*",
    domains: Sequence[str] = (),
    methods: Sequence[str] = (),
    config_path: Path | str | None = None,
    on_line: OnLine = lambda line: None,
) -> Summary:
    """Run what is not up to date of a selection of assets; a failure stops what depends on it and
    nothing else.

    An asset is up to date if its artifact is what would be built today, passed its checks with
    today's thresholds, and was materialized in this Dagster home.

    Args:
        selection: Dagster's syntax, such as `*`, `+domain_results` or `comparison`.
        domains: Slugs; none: every valid domain file.
        methods: Names; none: those of `pipeline.yaml`.
        config_path: The `pipeline.yaml`; unset: as `Project.load`.
        on_line: Called with what steps report, and with what failed or is skipped.

    Raises:
        InputError: If the selection, a domain or a method is wrong, or runs of the instance are
            started elsewhere. Nothing has run then. What is wrong with domains only warns where
            nothing of a domain is selected.
    """
    started = time.monotonic()
    project = Project.load(config_path)
    chosen = {name: project.method(name) for name in methods or project.config.methods}
    defs = build_defs([*chosen], ProjectResource(str(project.path)))
    places = _places_without_problems(project, defs, selection, domains, chosen)
    if problems := store_problems(project):
        raise ConfigError(problems)
    _require_inputs(project, places)
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with open_instance(project) as instance, held_open(Path(instance.root_directory).resolve()):
        _require_local(instance)
        reap_abandoned(instance)
        _register(instance, project, sorted({key.split("/")[0] for _, key in places} - {ALL}))
        launch = Launch(project, defs, instance, on_line)
        launch.run(places)
    raise_if_stopped()
    Tracking(project).sync()
    launch.summary.seconds = time.monotonic() - started
    return launch.summary


def _places_without_problems(
    project: Project,
    defs: dg.Definitions,
    selection: str,
    domains: Sequence[str],
    methods: Mapping[str, Method],
) -> list[Place]:
    """Return what a selection names, without domains that have problems.

    Raises:
        ConfigError: If something of a domain is selected, and one of `domains` has a problem, or
            every domain of the project.
    """
    valid, broken = load_domains(project.config.domains)
    slugs = list(domains or valid)
    faults = {slug: domain_problems(project, slug) for slug in slugs}
    problems = [*chain.from_iterable(faults.values()), *([] if domains else broken)]
    usable = [slug for slug in slugs if not faults[slug]]
    is_refused = problems and (domains or not usable)
    places = plan(defs, selection, ["any"] if is_refused else usable, methods)
    if is_refused and any(key != ALL for _, key in places):
        raise ConfigError(problems)
    for problem in problems:
        logger.warning("left out: %s", problem)
    return places


@without_warnings()
def plan(
    defs: dg.Definitions,
    selection: str,
    domains: Sequence[str],
    methods: Mapping[str, Method],
) -> list[Place]:
    """Return what a selection names, in the order of the runs: what belongs to no domain, domains,
    the overview of all.

    What is made from a domain's files alone comes first for all of them, so that a pass over the
    corpus serves them all. Of a domain then what all methods need, then method after method, then
    what gathers their results.

    Raises:
        InputError: If the selection names nothing that is made for these domains and methods.
    """
    graph = defs.resolve_asset_graph()
    try:
        selected = dg.AssetSelection.from_string(selection).resolve(graph)
    except Exception as error:  # the parser, and the resolver of unknown names, raise several kinds
        raise InputError(f"--select {selection!r}: {' '.join(str(error).split())}") from error
    rows = [row for row in STAGES.values() if dg.AssetKey(row.name) in selected]
    slugs = {slug: number for number, slug in enumerate(domains)}
    order = list(methods)

    def turn(place: Place) -> tuple[int, bool, int]:
        row = STAGES[place[0]]
        slug, method = domain_and_method(place[1])
        if row.scope == "domain" and not (row.parents or row.gathers):
            return -1, True, slugs[slug]
        domain = slugs.get(slug, len(slugs) if row.gathers else -1)
        return domain, bool(row.gathers), order.index(method) if method else -1

    places = [(row.name, key) for row in rows for key in row.keys(slugs, methods)]
    if not places:
        text = "there is nothing of it for these domains and methods"
        raise InputError(f"--select {selection!r}: {text}")
    return sorted(places, key=turn)


def _require_inputs(project: Project, places: Sequence[Place]) -> None:
    """Refuse a corpus, encoders or packages that are not there, where they are built from.

    A fresh checkpoint was loaded from what is configured; to ask again would load open_clip for
    nothing.
    """
    problems = {
        CORPUS: corpus_problems,
        CORPUS_EMBEDDINGS: embedding_problems,
        BASE_CHECKPOINT: encoder_problems,
        RETRIEVAL_CHECKPOINT: encoder_problems,
    }
    due = [
        problems[stage]
        for stage, key in places
        if stage in problems and not fresh_artifact(project, stage, key)
    ]
    if found := [problem for look in dict.fromkeys(due) for problem in look(project)]:
        raise ConfigError(found)


def _require_local(instance: dg.DagsterInstance) -> None:
    """Refuse another launcher: a run of this process would not have its resources."""
    launcher = instance.get_ref().run_launcher_data
    if launcher is not None and launcher.class_name != dg.DefaultRunLauncher.__name__:
        raise InputError(
            f"{instance.root_directory}: runs are started by {launcher.class_name}, so nothing is "
            "built in this process; launch them in Dagster's user interface"
        )


def _register(instance: dg.DagsterInstance, project: Project, slugs: Sequence[str]) -> None:
    """Show the domains, and changes of their files, in Dagster."""
    files = {slug: project.domain(slug) for slug in slugs}
    instance.add_dynamic_partitions(DOMAINS, slugs)
    for event in changed_files(instance, ProjectResource(), project.config.domains, files):
        instance.report_runless_asset_event(event)


@dataclass
class Launch:
    """Runs places that need it, one after the other, in this process."""

    project: Project
    defs: dg.Definitions
    instance: dg.DagsterInstance
    on_line: OnLine
    summary: Summary = field(default_factory=Summary)

    def run(self, places: Sequence[Place]) -> None:
        """Look at each place, and run it if that is needed and nothing before it failed."""
        look: Manifests | None = Manifests.of(self.project)
        summary = self.summary
        for place in places:
            raise_if_stopped()
            failed = {*summary.failed, *summary.skipped}
            if blocked := _blocked_by(self.project, place, places, failed):
                summary.skipped[place] = f"{blocked} failed"
                self.on_line(f"{named(place)}: skipped")
                continue
            artifact = fresh_artifact(self.project, *place, look)
            if artifact and self._is_shown(artifact):
                summary.reused += 1
                continue
            self.run_place(place)
            # Others may be made from it. In a bucket a look lists everything.
            look = None if self.project.config.store_url else Manifests.of(self.project)

    def _is_shown(self, artifact: Artifact) -> bool:
        """Whether Dagster shows an artifact, with checks that passed."""
        stage, key = artifact.stage, artifact.key
        if blocking_checks(stage) and not is_checked(self.project, artifact):
            return False
        return bool(run_of_last(self.instance, dg.AssetKey(stage), to_partition_key(key)))

    def run_place(self, place: Place) -> None:
        """Make one artifact in a run of its own.

        Raises:
            KeyboardInterrupt: If the run was interrupted.
        """
        run_id = str(uuid.uuid4())
        self.summary.run_ids.append(run_id)
        self.instance.add_event_listener(run_id, self._listener(place))
        with shown_alive(self.instance, run_id):
            result = self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=self.instance,
                run_id=run_id,
                asset_selection=[dg.AssetKey(place[0])],
                partition_key=to_partition_key(place[1]),
                raise_on_error=False,
                run_config=QUIET,
                tags={USER_TAG: COMMAND_LINE, **tags_of_key(place[1])},
            )
        checks = [one for one in result.get_asset_check_evaluations() if not one.passed]
        if result.success:
            (made,) = result.get_asset_materialization_events()
            reused = bool(made.step_materialization_data.materialization.metadata["reused"].value)
            self.summary.reused += reused
            self.summary.built += not reused
            for check in checks:
                self.on_line(f"{named(place)}: warning: {check.description}")
            return
        blocked = [f"check {one.check_name}: {one.description}" for one in checks if one.blocking]
        steps = [failure_reason(event) for event in result.all_events if event.is_step_failure]
        why = "; ".join(blocked or steps[:1]) or "failed; see the run in the UI"
        self.summary.failed[place] = why
        if why == INTERRUPTED:
            raise KeyboardInterrupt
        self.on_line(f"{named(place)}: failed")

    def _listener(self, place: Place) -> Callable[[dg.EventLogEntry], None]:
        """Pass on lines of steps, and of Dagster's own events those of steps that are tried again.

        Dagster also writes a line for each check that it skips after a failure.
        """
        started = set[str | None]()

        def listen(entry: dg.EventLogEntry) -> None:
            event = entry.dagster_event
            if event is None:
                if entry.step_key in started:
                    self.on_line(" ".join(entry.user_message.split()))
            elif event.is_step_start:
                started.add(event.step_key)
            elif event.is_step_up_for_retry:
                again = event.step_retry_data.seconds_to_wait or 0
                self.on_line(
                    f"{named(place)}: {failure_reason(event)}; trying again in {again:.0f} s"
                )

        return listen


def fresh_artifact(
    project: Project, stage: str, key: str, look: Manifests | None = None
) -> Artifact | None:
    """The artifact that would be built today; None if it is not there, out of date, or damaged.

    With a look the bytes of what it was made from are not verified.
    """
    try:
        artifact = up_to_date(look or project, stage, key)
        return project.store.open(stage, key, artifact.fingerprint) if look else artifact
    except (ReactError, OSError, ValueError):
        return None  # if it is more than out of date, the step itself says so


def named(place: Place) -> str:
    """As a line of output names an artifact."""
    return place[0] if place[1] == ALL else " ".join(place)


def _blocked_by(project: Project, place: Place, places: Sequence[Place], failed: set[Place]) -> str:
    """What failed of all that an artifact is made from; of results that are gathered, one is
    enough.
    """
    if not failed:
        return ""
    stage, key = place
    for parent in failed.intersection(parents_of(project, stage, key).values()):
        return named(parent)
    for gathered in STAGES[stage].gathers:
        results = {
            one for one in places if one[0] == gathered and key in (ALL, one[1].split("/")[0])
        }
        if results and results <= failed:
            return f"every {named((gathered, key))}"
    return ""
