"""Conditions: when an asset is asked for without a person.

Belongs here: the automation condition of all assets, and the sensor that evaluates it. Does not belong here: what is
outdated and what the policy says (`react_pipeline.upkeep`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster_shared.record import replace

from assets.partitions import DOMAINS, partition_of
from assets.reporting import INTERRUPTED
from assets.resources import ProjectResource
from react_pipeline.errors import ReactError
from react_pipeline.lineage import ALL, STAGES, Project
from react_pipeline.outside import LOOKS_OUTSIDE, glance
from react_pipeline.upkeep import Place, State, Survey, Task, survey

INPUTS_TAG = "react/inputs."
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own, on a failed run that its daemon is about to start again."""

MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000

PRIORITIES = {
    **{"corpus": 90, "base_checkpoint": 90, "corpus_embeddings": 85, "faiss_index": 85},
    **{"evaluation_set": 80, "retrieved_set": 75, "control_set": 70},
    **{"comparison": 65, "promotion": 65, "overview": 65, "elevater_results": 60},
    **{"customized_checkpoint": 50},
    **{"benchmark_comparison": 20, "benchmark_results": 15, "benchmark_features": 10},
}
"""Priority of a run: what many things wait for comes first; a training loses one for each digit of its images."""


@dataclass
class Tick:
    """What the conditions of all assets share in one tick."""

    time: Any
    project: Project | None
    slugs: Sequence[str] = ()
    failed: set[Place] = field(default_factory=set)
    asked: dict[tuple[str, str | None], Task] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    _survey: Survey | None = None
    _with: frozenset[Place] = frozenset()

    @property
    def survey(self) -> Survey:
        """Taken again only if something was found to have failed since."""
        if self._survey is None or self._with != self.failed:
            assert self.project is not None  # noqa: S101 - a tick with a problem asks for nothing
            self._with = frozenset(self.failed)
            self._survey = survey(self.project, self.slugs, self._with)
        return self._survey


class Outdated(dg.AutomationCondition):
    """True where an artifact is missing or out of date, all it is made from is fresh, and nobody asked for it yet.

    Its cursor remembers with which inputs each partition was asked for, until it is fresh, so that work which failed is
    not tried again before something changes; and how the user's files looked. It must come last in a conjunction:
    what it finds true it counts as asked for.
    """

    def __init__(self, project: ProjectResource) -> None:
        """Of the project that this resource loads."""
        self.project = project
        self.tick = Tick(None, None)

    @property
    def description(self) -> str:
        """Shown in the UI."""
        return "missing or out of date by fingerprint, all before it fresh, and not yet asked for with these inputs"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Ask for what is due of one asset."""
        tick, stage = self._tick_of(context), context.key.path[-1]
        if tick.project is None:
            return dg.AutomationResult(context, context.get_empty_subset(), cursor=context.cursor)
        memory: dict[str, dict[str, str]] = {"asked": {}, "seen": {}, **json.loads(context.cursor or "{}")}
        free = _keys_of(context)
        requested = []
        for task in list(self._due(tick, stage, memory)):
            if task.key not in free:
                continue
            run = _last_run(context, task) if memory["asked"].get(task.key) == task.inputs else None
            if run is not None and _is_started_again(run):
                continue  # its process was killed, and Dagster starts it again
            if memory["asked"].get(task.key) == task.inputs and not _was_interrupted(context, run):
                tick.failed.add(task.place)
                tick.told.append(f"{stage} {task.key}: was asked for with these inputs, and is not there; see its run")
                continue
            failed, running = _checks_of_parents(context, task)
            if failed:
                tick.failed.add(task.place)
                tick.told.append(f"{stage} {task.key}: not asked for: {', '.join(failed)} has failed")
            elif not running:
                requested.append(task)
                memory["asked"][task.key] = task.inputs
                if stage in LOOKS_OUTSIDE:
                    memory["seen"][task.key] = glance(tick.project, stage, task.key)
                tick.told.append(f"{stage} {task.key}: asked for: {task.reason}")
        for task in tick.survey.held:
            if task.stage == stage:
                tick.told.append(f"{stage} {task.key}: held back: {task.reason}")
        tick.asked.update({(stage, partition_key(task.key)): task for task in requested})
        return dg.AutomationResult(context, _subset(context, requested), cursor=json.dumps(memory))

    def _due(self, tick: Tick, stage: str, memory: dict[str, dict[str, str]]) -> list[Task]:
        found = tick.survey
        tasks = [task for task in found.tasks if task.stage == stage]
        for key in list(memory["asked"]):
            if found.states.get((stage, key)) is State.FRESH:
                del memory["asked"][key]
        for (name, key), seen in found.glances.items():
            if name == stage and memory["seen"].setdefault(key, seen) != seen:
                tasks.append(Task(stage, key, "its files look different", seen))
        return tasks

    def _tick_of(self, context: dg.AutomationContext) -> Tick:
        if self.tick.time != context.evaluation_time:
            self.tick = Tick(context.evaluation_time, None)
            try:
                self.tick.project = self.project.load()
            except ReactError as error:
                self.tick.told.append(str(error))
            self.tick.slugs = sorted(context.asset_graph_view.instance.get_dynamic_partitions(DOMAINS))
            if self.tick.project is not None:
                for slug, reason in self.tick.survey.unreadable.items():
                    self.tick.told.append(f"{slug}: left out: {reason}")
        return self.tick


class UpkeepSensor(dg.AutomationConditionSensorDefinition):
    """Evaluates the conditions in the code location, where `Outdated` can run, and says in tags why a run is wanted."""

    def __init__(self, condition: Outdated, **settings: Any) -> None:
        """Over all assets; `settings` as of the base class."""
        super().__init__(target=dg.AssetSelection.all(), emit_backfills=False, use_user_code_server=True, **settings)
        self.condition = condition

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> Any:
        """As the base class, with tags for each run, and with all that is to be told in the log of the tick."""
        data, told = super().evaluate_tick(context), self.condition.tick.told
        for line in told:
            context.log.info(line)
        requests = [self._tagged(request) for request in data.run_requests or ()]
        skipped = None if requests else "\n".join(told)[:MAX_SKIP_CHARS] or "everything is up to date"
        return replace(data, run_requests=requests, skip_message=skipped)

    def _tagged(self, request: dg.RunRequest) -> dg.RunRequest:
        names = [key.path[-1] for key in request.asset_selection or ()]
        tasks = [self.condition.tick.asked.get((name, request.partition_key)) for name in names]
        return request.with_replaced_attrs(tags={**request.tags, **tags_of([task for task in tasks if task])})


def condition_of(project: ProjectResource) -> tuple[Outdated, dg.AutomationCondition]:
    """The condition of every asset: outdated, and no run of it in progress."""
    outdated = Outdated(project)
    return outdated, ~dg.AutomationCondition.in_progress() & outdated


def tags_of(tasks: Sequence[Task]) -> dict[str, str]:
    """Tags of a run that builds these artifacts of one key."""
    if not tasks:
        return {}
    domain, _, method = tasks[0].key.partition("/")
    priority = max(PRIORITIES.get(task.stage, 0) - (len(str(task.images)) if task.images else 0) for task in tasks)
    tags = {
        "react/reason": "; ".join(f"{task.stage}: {task.reason}" for task in tasks)[:MAX_TAG_CHARS],
        **{INPUTS_TAG + task.stage: task.inputs for task in tasks},
        "dagster/priority": str(priority),
    }
    named = {"react/domain": domain, "react/method": method} if domain != ALL else {}
    return {**tags, **{name: value for name, value in named.items() if value}}


def partition_key(key: str) -> str | None:
    """The partition key of what the library calls `key`."""
    return partition_of(*key.split("/")) if "/" in key else None if key == ALL else key


def _keys_of(context: dg.AutomationContext) -> set[str]:
    """The library's names of the candidates: partitions that exist and are not in progress."""
    if context.partitions_def is None:
        return set() if context.candidate_subset.is_empty else {ALL}
    # Dimensions are joined in the order of their names: domain, then method.
    return {key.replace("|", "/") for key in context.candidate_subset.expensively_compute_partition_keys()}


def _subset(context: dg.AutomationContext, tasks: Sequence[Task]) -> Any:
    if context.partitions_def is None:
        return context.candidate_subset if tasks else context.get_empty_subset()
    keys = {str(partition_key(task.key)) for task in tasks}
    return context.candidate_subset.compute_intersection_with_partition_keys(keys)


def _last_run(context: dg.AutomationContext, task: Task) -> dg.DagsterRun | None:
    """The last run that was asked for with these inputs, tries of Dagster's own included."""
    wanted = dg.RunsFilter(tags={INPUTS_TAG + task.stage: task.inputs})
    return next(iter(context.asset_graph_view.instance.get_runs(wanted, limit=1)), None)


def _is_started_again(run: dg.DagsterRun) -> bool:
    return run.status == dg.DagsterRunStatus.FAILURE and run.tags.get(WILL_RETRY_TAG) == "true"


def _was_interrupted(context: dg.AutomationContext, run: dg.DagsterRun | None) -> bool:
    """Whether a run ended with the servers, and not by itself or by a person."""
    if run is None or run.status != dg.DagsterRunStatus.FAILURE:
        return False
    instance = context.asset_graph_view.instance
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        told = entry.get_dagster_event().step_failure_data.user_failure_data
        if told is not None and told.description == INTERRUPTED:
            return True
    return False


def _checks_of_parents(context: dg.AutomationContext, task: Task) -> tuple[list[str], bool]:
    """The blocking checks that failed of what this would be made from, and whether others still run.

    The artifact of a run is there before its checks are done.
    """
    instance, failed, running = context.asset_graph_view.instance, [], False
    for stage, key in STAGES[task.stage].parents(task.key).items():
        graph = context.asset_graph
        checks = [name for name in graph.get(dg.AssetKey(stage)).check_keys if graph.get(name).blocking]
        partition = partition_key(key)
        wanted = None if partition is None else [str(partition)]
        for found in instance.event_log_storage.get_asset_check_partition_info(checks, partition_keys=wanted):
            told = found.latest_execution_status.value
            run = instance.get_run_by_id(found.latest_planned_run_id) if told == "PLANNED" else None
            running |= run is not None and not run.is_finished
            if (told == "FAILED" and found.is_current) or (told == "PLANNED" and (run is None or run.is_finished)):
                failed.append(f"{found.check_key.name} of {stage}")
    return failed, running
