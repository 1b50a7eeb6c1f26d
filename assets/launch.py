"""Launching: materialize assets from the command line, in one process, on the real Dagster instance.

Belongs here: which runs a selection becomes, in which order, which of them are needed, what happens after one fails.
Does not belong here: what is out of date (`react_pipeline.upkeep`), what a killed launch leaves behind (`launches`).
Every run makes one artifact and looks in the UI like one that was started there. One process for all of them imports
torch and loads the definitions once.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import dagster as dg

from react_pipeline.assets.attempts import evaluations_of, reason_of
from react_pipeline.assets.automation import DATA_VERSION_TAG
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.event_databases import held_open
from react_pipeline.assets.launches import registered, tags_of
from react_pipeline.assets.partitions import DOMAINS, name_of, partition_of
from react_pipeline.assets.reporting import INTERRUPTED, SEEN_TAG, seen
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.pipeline import ALL, STAGES, method_key
from react_pipeline.project import HOME_VARIABLE, Project, prepare_home
from react_pipeline.settings import METHODS, load_domains
from react_pipeline.store import Artifact, InputError, ReactError
from react_pipeline.tracking import Tracking
from react_pipeline.upkeep import APART, Place, left_out_groups, up_to_date

logger = logging.getLogger(__name__)


CONSOLE = "console"
"""Name of the logger, under which Dagster has its own for people who read a terminal."""


@dataclass
class Summary:
    """The result for all assets.

    Attributes:
        built: How many were built.
        reused: How many were up to date, with a run or without.
        failed: Why, by place.
        skipped: What they would have been made from and failed, by place.
    """

    seconds: float = 0.0
    built: int = 0
    reused: int = 0
    failed: dict[Place, str] = field(default_factory=dict)
    skipped: dict[Place, str] = field(default_factory=dict)
    run_ids: list[str] = field(default_factory=list)


@dataclass
class Recorded:
    """What Dagster and MLflow show of a project's artifacts, so that no run is needed to show it."""

    instance: dg.DagsterInstance
    project: Project

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking.of(self.project)

    @cached_property
    def _logged(self) -> set[str] | None:
        return self._tracking.logged(self.project)

    def is_up_to_date(self, place: Place) -> bool:
        """Whether an artifact is what would be built today, and is shown."""
        try:
            return self.shows(up_to_date(self.project, *place))
        except (ReactError, OSError, ValueError):
            return False  # if it is more than out of date, the step itself says so

    def shows(self, artifact: Artifact) -> bool:
        """Whether its materialization, its passed blocking checks and its MLflow run are there."""
        stage, key = artifact.stage, artifact.key
        if self._logged is not None and artifact.fingerprint not in self._logged:
            return False
        if stage == "promotion" and self._tracking.hand_edit(self.project, key) is not None:
            return False
        today, partition = seen(self.project, STAGES[stage], key), name_of(key)
        wanted = dg.AssetRecordsFilter(dg.AssetKey(stage), asset_partitions=[partition] if partition else None)
        records = self.instance.fetch_materializations(wanted, limit=1).records
        made = [record.asset_materialization for record in records if record.asset_materialization]
        tags = made[0].tags or {} if made else {}
        if not today or (tags.get(DATA_VERSION_TAG), tags.get(SEEN_TAG)) != (artifact.fingerprint, today):
            return False
        checks = evaluations_of(self.instance, stage, key)
        passed = [info for info in checks if info.latest_execution_status.value == "SUCCEEDED" and info.is_current]
        return {info.check_key for info in passed} == set(blocking_checks(stage))


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
    on_line: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Run what is not up to date of a selection of assets; a failure stops what depends on it and nothing else.

    An asset is up to date if its artifact is what would be built today and Dagster and MLflow show it.

    Args:
        selection: Dagster's syntax, such as `+domain_results` or `comparison`. `*` leaves out the benchmark unless
            `elevater.root` is set, and detection and segmentation unless `dense.root` is there.
        domains: Slugs; none: every valid domain file.
        methods: Of `METHODS`; none: those of `pipeline.yaml`.
        config_path: The `pipeline.yaml`; unset: as `Project.load`.
        on_line: Called with what steps report, and with what failed or is skipped.

    Raises:
        InputError: If the selection, a domain or a method is wrong. Nothing has run then.
    """
    project = Project.load(config_path)
    lines = StepLines(on_line)
    methods = methods or project.config.methods
    defs = build_defs(methods, {CONSOLE: lines.definition}, project=ProjectResource(config_path=str(project.path)))
    left_out = left_out_groups(project.config) if selection.strip() == "*" else set()
    slugs = domains or _valid_domains(project)
    for slug in slugs:
        project.domain(slug)
    places = plan(defs, selection, slugs, methods, left_out)
    summary, started = Summary(), time.monotonic()
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with open_instance(project) as instance, held_open(instance), registered(instance) as name:
        instance.add_dynamic_partitions(DOMAINS, sorted({key.split("/")[0] for _, key in places} - {ALL}))
        recorded = Recorded(instance, project)
        for place in places:
            if blocked := _blocked_by(place, places, {*summary.failed, *summary.skipped}):
                summary.skipped[place] = f"{blocked} failed"
                on_line(f"{named(place)}: skipped")
            elif recorded.is_up_to_date(place):
                summary.reused += 1
            else:
                _run(defs, instance, name, place, summary)
                if place in summary.failed:
                    on_line(f"{named(place)}: failed")
    Tracking.of(project).log_pending(project, patient=True)
    summary.seconds = time.monotonic() - started
    return summary


def plan(
    defs: dg.Definitions,
    selection: str,
    domains: Sequence[str],
    methods: Sequence[str],
    left_out: Collection[str] = APART,
) -> list[Place]:
    """What a selection names, in the order of the runs: what belongs to no domain, domains, the overview of all.

    Of a domain first what all methods need, then method after method, then what gathers their results. The assets of
    the groups `left_out` are not among them.

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
    rows = [row for row in STAGES.values() if row.name in wanted and row.group not in left_out]
    slugs = list(domains)

    def turn(place: Place) -> tuple[int, bool, int]:
        row, (slug, _, method) = STAGES[place[0]], place[1].partition("/")
        domain = slugs.index(slug) if slug in slugs else len(slugs) if row.gathers else -1
        return domain, bool(row.gathers), METHODS.index(method) if method else -1

    return sorted(((row.name, key) for row in rows for key in row.keys(slugs, methods)), key=turn)


def named(place: Place) -> str:
    """As a line of output names an artifact."""
    return place[0] if place[1] == ALL else " ".join(place)


def _blocked_by(place: Place, places: Sequence[Place], failed: set[Place]) -> str:
    """What failed of all that an artifact is made from; of results that are gathered, one is enough."""
    stage, key = place
    for parent in STAGES[stage].parents_of(key).items():
        if parent in failed:
            return named(parent)
    for gathered in STAGES[stage].gathers:
        results = [found for found in places if found[0] == gathered and key in (ALL, found[1].split("/")[0])]
        if results and failed.issuperset(results):
            return f"every {named((gathered, key))}"
    return ""


def _run(defs: dg.Definitions, instance: dg.DagsterInstance, launch: str, place: Place, summary: Summary) -> None:
    """Make one artifact in a run of its own.

    Raises:
        KeyboardInterrupt: If the run was interrupted.
    """
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(place[0])],
        partition_key=partition_of(place[1]),
        raise_on_error=False,
        run_config={"loggers": {CONSOLE: {}}},
        tags=tags_of(launch),
    )
    summary.run_ids.append(result.run_id)
    if result.success:
        (made,) = result.get_asset_materialization_events()
        reused = bool(made.step_materialization_data.materialization.metadata["reused"].value)
        summary.reused += reused
        summary.built += not reused
        return
    checks = [check for check in result.get_asset_check_evaluations() if check.blocking and not check.passed]
    reasons = [f"check {check.check_name}: {check.description}" for check in checks]
    reasons = reasons or [reason_of(event) for event in result.all_events if event.is_step_failure][:1]
    summary.failed[place] = "; ".join(reasons) or "failed; see the run in the UI"
    if summary.failed[place] == INTERRUPTED:
        raise KeyboardInterrupt


def _valid_domains(project: Project) -> list[str]:
    found, problems = load_domains(project.config.domains)
    for problem in problems:
        logger.warning("left out: %s", problem)
    return sorted(found)


class StepLines(logging.Handler):
    """Calls `on_line` with the lines of steps, and with Dagster's own where one is tried again."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """Nothing is passed on before a job is given the `definition`."""
        super().__init__()
        self.on_line = on_line

    @property
    def definition(self) -> dg.LoggerDefinition:
        """The logger that a job is given; it needs `{"loggers": {CONSOLE: {}}}` in the configuration of a run."""

        def to_lines(_context: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger(CONSOLE, logging.INFO)
            logger.addHandler(self)
            return logger

        return dg.LoggerDefinition(to_lines, config_schema={}, description="Passes on what steps report.")

    def emit(self, record: logging.LogRecord) -> None:
        """As of `logging.Handler`."""
        about = vars(record).get("dagster_meta", {})
        event = about.get("dagster_event")
        if event is None or event.is_step_up_for_retry:
            self.on_line(" ".join(str(about.get("orig_message", record.msg)).split()))
