"""Launching: materialize assets from the command line, in one process, on the real Dagster instance.

Belongs here: which runs a selection becomes, in which order, what happens after one fails. Does not belong here: what
is up to date (`react_pipeline.upkeep`, `recorded`), what a killed launch leaves behind (`launches`). Every run has its
events, checks and metadata in the Dagster UI like one that was started there. One process for all of them imports
torch and loads the definitions once.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from assets.attempts import reason_of
from assets.definitions import build_defs
from assets.event_databases import held_open
from assets.launches import registered, tags_of
from assets.partitions import DOMAINS, partition_of
from assets.recorded import Recorded
from assets.reporting import INTERRUPTED
from assets.resources import ProjectResource
from assets.step_lines import CONSOLE, StepLines
from react_pipeline.pipeline import ALL, STAGES, method_key
from react_pipeline.project import HOME_VARIABLE, Project, prepare_home
from react_pipeline.settings import METHODS, load_domains
from react_pipeline.store import InputError, ReactError
from react_pipeline.tracking import Registry, Tracking
from react_pipeline.upkeep import up_to_date

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """One Dagster run: assets that share a partition, which the library calls `key`."""

    assets: tuple[str, ...]
    key: str = ALL

    def __str__(self) -> str:
        """As a line of output names it."""
        return ", ".join(self.assets) + ("" if self.key == ALL else f" {self.key}")


@dataclass(frozen=True)
class Event:
    """What is reported while a launch runs.

    `state` is `step` (`message` is a line about one asset: it begins, ends or is tried again), or what became of a run:
    `done`, `failed` or `skipped`.
    """

    launch: Launch
    state: str
    seconds: float = 0.0
    reused: bool = False
    message: str = ""


@dataclass
class Summary:
    """The result for all assets: `reused` were up to date, with a run or without.

    `run_ids` are Dagster's.
    """

    seconds: float = 0.0
    built: int = 0
    reused: int = 0
    failures: list[Event] = field(default_factory=list)
    skipped: list[Event] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)


def open_instance(project: Project) -> dg.DagsterInstance:
    """The Dagster instance: `DAGSTER_HOME`, or the `dagster_home` beside the project's `pipeline.yaml`.

    Raises:
        InputError: If that folder cannot be written.
    """
    os.environ[HOME_VARIABLE] = str(prepare_home(project.path.parent))
    return dg.DagsterInstance.get()


def materialize(
    selection: str = "*",
    domains: Sequence[str] = (),
    methods: Sequence[str] = (),
    config_path: Path | str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Run what is not up to date of a selection of assets; a failure stops what depends on it and nothing else.

    An asset is up to date if its artifact is what would be built today and Dagster and MLflow show it.

    Args:
        selection: Dagster's syntax, such as `+domain_results` or `comparison`. `*` leaves the benchmark out unless
            `elevater.root` is set.
        domains: Slugs; none: every valid domain file.
        methods: Of `METHODS`; none: those of `pipeline.yaml`.
        config_path: The `pipeline.yaml`; unset: as `Project.load`.
        on_event: Called when a step begins and ends, and after each run.

    Raises:
        InputError: If the selection, a domain or a method is wrong. Nothing has run then.
    """
    project = Project.load(config_path)
    lines = StepLines()
    methods = methods or project.config.methods
    defs = build_defs(methods, {CONSOLE: lines.definition}, project=ProjectResource(config_path=str(project.path)))
    benchmark = project.config.elevater.root is not None or selection.strip() != "*"
    launches = plan(defs, selection, domains or _valid_domains(project), methods, benchmark=benchmark)
    for slug in {launch.key.split("/")[0] for launch in launches} - {ALL}:
        project.domain(slug)
    started = time.monotonic()
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with open_instance(project) as instance, held_open(instance), registered(instance) as name:
        instance.add_dynamic_partitions(DOMAINS, sorted({entry.key.split("/")[0] for entry in launches} - {ALL}))
        recorded = Recorded(instance, project)
        summary = _Runner(defs, recorded, name, on_event, lines).run(launches)
    Tracking.of(project).log_pending(project, patient=True)
    Registry.of(project).apply_pending(project, patient=True)
    summary.seconds = time.monotonic() - started
    return summary


def plan(
    defs: dg.Definitions, selection: str, domains: Sequence[str], methods: Sequence[str], *, benchmark: bool = False
) -> list[Launch]:
    """The runs of a selection, in order: what belongs to no domain, domain after domain, then the overview of all.

    The assets of the benchmark are among them only if `benchmark` is given.

    Raises:
        InputError: If the selection names nothing, or a method is unknown.
    """
    try:
        selected = dg.AssetSelection.from_string(selection).resolve(defs.resolve_asset_graph())
    except Exception as error:  # the parser, and the resolver of unknown names, raise several kinds
        raise InputError(f"--select {selection!r}: {' '.join(str(error).split())}") from error
    if not selected:
        raise InputError(f"--select {selection!r}: no such asset")
    for method in methods:
        method_key("any", method)
    wanted = {key.path[-1] for key in selected}
    rows = [row for row in STAGES.values() if row.name in wanted and (benchmark or row.group != "benchmark")]

    def together(key: str, *scopes: str, gathers: bool = False) -> list[Launch]:
        """What shares a partition and comes together; apart from it the benchmark, so that it fails nothing else."""
        of_scope = [row for row in rows if row.scope in scopes and bool(row.gathers) == gathers]
        kinds = [[row.name for row in of_scope if (row.group == "benchmark") == apart] for apart in (False, True)]
        return [Launch(tuple(names), key) for names in kinds if names]

    launches = together(ALL, "all")
    for slug in domains:
        launches += together(slug, "domain")
        for method in sorted(methods, key=METHODS.index):
            key = method_key(slug, method)
            launches += [*(together(key, "trained") if method != "base" else ()), *together(key, "method")]
        launches += together(slug, "domain", gathers=True)
    return launches + together(ALL, "all", gathers=True)


@dataclass
class _Runner:
    defs: dg.Definitions
    recorded: Recorded
    name: str
    on_event: Callable[[Event], None]
    lines: StepLines
    tried: set[tuple[str, str]] = field(default_factory=set)
    failed: set[tuple[str, str]] = field(default_factory=set)
    summary: Summary = field(default_factory=Summary)

    def run(self, launches: Sequence[Launch]) -> Summary:
        for launch in launches:
            self.tried |= {(name, launch.key) for name in launch.assets}
            blocked = self._blocked_by(launch)
            if blocked:
                self._fail(launch, Event(launch, "skipped", message=f"{blocked} failed"), launch.assets)
                continue
            due = self._due(launch)
            self.summary.reused += len(launch.assets) - len(due)
            if due:
                self._run_one(Launch(due, launch.key))
        return self.summary

    def _due(self, launch: Launch) -> tuple[str, ...]:
        """The first asset that is not up to date and those after it: they may be made from it."""
        for place, name in enumerate(launch.assets):
            try:
                if self.recorded.shows(up_to_date(self.recorded.project, name, launch.key)):
                    continue
            except (ReactError, OSError, ValueError):
                pass  # if it is more than out of date, the step itself says so
            return launch.assets[place:]
        return ()

    def _run_one(self, launch: Launch) -> None:
        self.lines.on_line = lambda line: self.on_event(Event(launch, "step", message=line))
        started = time.monotonic()
        job = self.defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.recorded.instance,
            asset_selection=[dg.AssetKey(name) for name in launch.assets],
            partition_key=partition_of(launch.key),
            raise_on_error=False,
            run_config={"loggers": {CONSOLE: {}}},
            tags=tags_of(self.name),
        )
        seconds = time.monotonic() - started
        self.summary.run_ids.append(result.run_id)
        reused = [
            bool(event.step_materialization_data.materialization.metadata["reused"].value)
            for event in result.get_asset_materialization_events()
        ]
        self.summary.reused += sum(reused)
        self.summary.built += len(reused) - sum(reused)
        if result.success:
            self.on_event(Event(launch, "done", seconds, all(reused)))
            return
        passed = _passed(result)
        event = Event(launch, "failed", seconds, message=_reason(result))
        self._fail(launch, event, [name for name in launch.assets if name not in passed])
        if event.message == INTERRUPTED:
            raise KeyboardInterrupt

    def _fail(self, launch: Launch, event: Event, assets: Sequence[str]) -> None:
        self.failed |= {(name, launch.key) for name in assets}
        (self.summary.skipped if event.state == "skipped" else self.summary.failures).append(event)
        self.on_event(event)

    def _blocked_by(self, launch: Launch) -> str:
        """What failed of all that the assets need; of results that are gathered, one is enough."""
        for row in (STAGES[name] for name in launch.assets):
            for stage, key in row.parents_of(launch.key).items():
                if stage not in launch.assets and (stage, key) in self.failed:
                    return str(Launch((stage,), key))
            for stage in row.gathers:
                of_all = [key for name, key in self.tried if name == stage and _is_below(key, launch.key)]
                if of_all and all((stage, key) in self.failed for key in of_all) and stage not in launch.assets:
                    return f"every {stage}" + ("" if launch.key == ALL else f" of {launch.key}")
        return ""


def _is_below(key: str, domain: str) -> bool:
    return domain == ALL or key.split("/")[0] == domain


def _passed(result: dg.ExecuteInProcessResult) -> set[str]:
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    checks = result.get_asset_check_evaluations()
    return made - {check.asset_key.path[-1] for check in checks if check.blocking and not check.passed}


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """The text of what failed: a check's own description, or the step's error without its traceback."""
    checks = [check for check in result.get_asset_check_evaluations() if check.blocking and not check.passed]
    if checks:
        return "; ".join(f"check {check.check_name}: {check.description}" for check in checks)
    failed = (reason_of(event) for event in result.all_events if event.is_step_failure)
    return next(failed, "failed; see the run in the UI")


def _valid_domains(project: Project) -> list[str]:
    found, problems = load_domains(project.config.domains)
    for problem in problems:
        logger.warning("left out: %s", problem)
    return sorted(found)
