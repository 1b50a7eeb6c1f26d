"""Launching: materialize assets from the command line, in one process, on the real Dagster instance.

Belongs here: which runs a selection becomes, in which order, what happens after one fails. Does not belong here: what
is up to date (`react_pipeline.upkeep`, `recorded`), what a killed launch leaves behind (`launch_locks`). Every run has
its events, checks and metadata in the Dagster UI like one that was started there. One process for all of them imports
torch and loads the definitions once.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from assets.benchmark import GROUP as BENCHMARK
from assets.definitions import build_defs
from assets.event_databases import held_open
from assets.launch_locks import LAUNCH_TAG, registered
from assets.partitions import DOMAINS, domain_partitions, evaluation_partitions, partition_of, training_partitions
from assets.recorded import Recorded
from assets.reporting import INTERRUPTED
from assets.resources import ProjectResource
from assets.step_lines import CONSOLE, StepLines
from react_pipeline.config_files import load_domains
from react_pipeline.dagster_home import HOME_VARIABLE, prepare_home
from react_pipeline.errors import InputError, ReactError
from react_pipeline.lineage import ALL, Project, method_key
from react_pipeline.settings.training import METHODS
from react_pipeline.tracking import Tracking
from react_pipeline.tracking.registry import Registry
from react_pipeline.upkeep import up_to_date

logger = logging.getLogger(__name__)

COMPARED = {"comparison": "elevater_results", "benchmark_comparison": "benchmark_results"}
"""Assets that need whichever results of a domain there are, and these results."""

AFTER_RESULTS = (("comparison", "promotion"), ("benchmark_comparison",))
"""Assets of a domain that come after all of its methods, by run: what goes wrong with the benchmark fails no other."""

AFTER_DOMAINS = ("overview",)
"""Assets of no domain that come after all of them."""


@dataclass(frozen=True)
class Launch:
    """One Dagster run: assets that share a partition. `key` is what the library calls it ("" for no partition)."""

    assets: tuple[str, ...]
    key: str = ""

    @property
    def partition(self) -> str | None:
        """The partition key, as Dagster wants it."""
        return partition_of(*self.key.split("/")) if "/" in self.key else self.key or None


@dataclass(frozen=True)
class Event:
    """What is reported while a launch goes on.

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
    """What came of all assets: `reused` are those that were as they should be, with a run or without.

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
    methods: Sequence[str] = METHODS,
    config_path: Path | str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Run what is not up to date of a selection of assets; a failure stops what depends on it and nothing else.

    An asset is up to date if its artifact is what would be built today and Dagster and MLflow show it as it is.

    Args:
        selection: Dagster's syntax, such as `+elevater_results` or `comparison`. `*` leaves the benchmark out unless
            `elevater.root` is set.
        domains: Slugs; none: every valid domain file.
        methods: Of `METHODS`.
        config_path: The `pipeline.yaml`; unset: as `Project.load`.
        on_event: Called when a step begins and ends, and after each run.

    Raises:
        InputError: If the selection, a domain or a method is wrong. Nothing has run then.
    """
    project = Project.load(config_path)
    lines = StepLines()
    defs = build_defs({CONSOLE: lines.definition}, project=ProjectResource(config_path=str(project.path)))
    benchmark = project.config.elevater.root is not None or selection.strip() != "*"
    launches = plan(defs, selection, domains or _valid_domains(project), methods, benchmark=benchmark)
    for slug in {launch.key.split("/")[0] for launch in launches} - {""}:
        project.domain(slug)
    started = time.monotonic()
    with open_instance(project) as instance, held_open(instance), registered(instance) as launch_id:
        instance.add_dynamic_partitions(DOMAINS, sorted({entry.key.split("/")[0] for entry in launches} - {""}))
        recorded = Recorded(instance, defs.resolve_asset_graph(), project)
        summary = _Runner(defs, recorded, {LAUNCH_TAG: launch_id}, on_event, lines).run(launches)
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
    graph = defs.resolve_asset_graph()
    runnable = graph.materializable_asset_keys & selected  # a domain's file is an asset that no run makes
    names = [key.path[-1] for key in graph.toposorted_asset_keys if key in runnable]
    of_benchmark = {name for name in names if graph.get(dg.AssetKey(name)).group_name == BENCHMARK}
    names = [name for name in names if benchmark or name not in of_benchmark]
    by_partitions = {
        definition: tuple(name for name in names if graph.get(dg.AssetKey(name)).partitions_def == definition)
        for definition in (None, domain_partitions, training_partitions, evaluation_partitions)
    }
    of_domain = by_partitions[domain_partitions]
    last = [tuple(name for name in of_domain if name in together) for together in AFTER_RESULTS]
    first = tuple(name for name in of_domain if not any(name in together for together in AFTER_RESULTS))
    measured = by_partitions[evaluation_partitions]
    launches = [Launch(tuple(name for name in by_partitions[None] if name not in AFTER_DOMAINS))]
    for slug in domains:
        launches.append(Launch(first, slug))
        for method in sorted(methods, key=METHODS.index):
            if method != "base":
                launches.append(Launch(by_partitions[training_partitions], f"{slug}/{method}"))
            # A run of its own, so that what goes wrong with the benchmark fails nothing else.
            launches.append(Launch(tuple(name for name in measured if name not in of_benchmark), f"{slug}/{method}"))
            launches.append(Launch(tuple(name for name in measured if name in of_benchmark), f"{slug}/{method}"))
        launches += [Launch(together, slug) for together in last]
    launches += [Launch((name,)) for name in by_partitions[None] if name in AFTER_DOMAINS]
    return [launch for launch in launches if launch.assets]


@dataclass
class _Runner:
    defs: dg.Definitions
    recorded: Recorded
    tags: dict[str, str]
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
                if self.recorded.shows(up_to_date(self.recorded.project, name, launch.key or ALL)):
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
            partition_key=launch.partition,
            raise_on_error=False,
            run_config={"loggers": {CONSOLE: {}}},
            tags=self.tags,
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
        graph = self.defs.resolve_asset_graph()
        slug = launch.key.split("/")[0]
        for stage in (COMPARED[name] for name in launch.assets if name in COMPARED):
            results = {(name, key) for name, key in self.tried if name == stage and key.startswith(f"{slug}/")}
            if results and results <= self.failed:
                return f"every {stage} of {slug}"
        keys = {"", slug, launch.key}
        for name in launch.assets:
            parents = {key.path[-1] for key in graph.get(dg.AssetKey(name)).parent_keys} - set(launch.assets)
            if launch.key.endswith("/base"):
                parents.discard("customized_checkpoint")
            if launch.key.count("/") and "control_set" in parents:
                parents.discard("retrieved_set" if launch.key.endswith("-control") else "control_set")
            for parent, key in sorted(self.failed):
                if parent in parents and key in keys:
                    return f"{parent} {key}".strip()
        return ""


def _passed(result: dg.ExecuteInProcessResult) -> set[str]:
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    checks = result.get_asset_check_evaluations()
    return made - {check.asset_key.path[-1] for check in checks if check.blocking and not check.passed}


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """The text of what failed: a check's own description, or the step's error without its traceback."""
    checks = [check for check in result.get_asset_check_evaluations() if check.blocking and not check.passed]
    if checks:
        return "; ".join(f"check {check.check_name}: {check.description}" for check in checks)
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return str(data.user_failure_data.description)
            error = data.error.cause or data.error if data.error else None
            return " ".join(error.message.split()) if error else "failed"
    return "failed; see the run in the UI"


def _valid_domains(project: Project) -> list[str]:
    found, problems = load_domains(project.config.domains)
    for problem in problems:
        logger.warning("left out: %s", problem)
    return sorted(found)
