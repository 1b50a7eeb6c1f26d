"""Conditions: when an asset is asked for without a person.

Belongs here: the automation condition of all assets, and the sensor that evaluates it. Does not belong here: what is
outdated and what the policy says (`react_pipeline.upkeep`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg
from dagster_shared.record import replace

from assets.attempts import INPUTS_TAG, Asked, Fate, Outlook, code_digest, outlook_of
from assets.gates import Gate, Unanswered, gate_of, requests_of
from assets.partitions import DOMAINS, partition_of
from assets.resources import ProjectResource
from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Project, glance
from react_pipeline.store import ReactError
from react_pipeline.upkeep import Place, State, Survey, Task, survey

MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000


@dataclass
class Tick:
    """What the conditions of all assets share in one tick."""

    time: Any
    project: Project | None
    slugs: Sequence[str] = ()
    failed: set[Place] = field(default_factory=set)
    asked: dict[tuple[str, str | None], Task] = field(default_factory=dict)
    checks: dict[tuple[dg.AssetCheckKey, str | None], Unanswered] = field(default_factory=dict)
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

    @cached_property
    def code(self) -> str:
        """Digest of the sources, read only in ticks that need it."""
        return code_digest()

    @property
    def summary(self) -> str:
        """What a tick says that asks for nothing: why, and what is behind and needs nobody to ask for it."""
        if self.project is None:
            return "\n".join(self.told)
        behind = sum(state in (State.DUE, State.WAITING) for state in self.survey.states.values())
        queued = [f"{behind} not up to date yet: runs are queued or in progress"] if behind else []
        return "\n".join([*self.told, *queued]) or "everything is up to date"


class Outdated(dg.AutomationCondition):
    """True where an artifact is missing or out of date, all it is made from is fresh, and nobody asked for it yet.

    Its cursor remembers with which inputs and code each partition was asked for, and how often, until it is fresh, so
    that work which failed is not tried again before something changes or the fault may have passed (`attempts`); and
    how the user's files looked. It must come last in a conjunction: what it finds true it counts as asked for.
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
        memory: dict[str, dict[str, Any]] = {"asked": {}, "seen": {}, **json.loads(context.cursor or "{}")}
        free, now = _keys_of(context), context.evaluation_time.timestamp()
        requested = []
        for task in list(self._due(tick, stage, memory)):
            if task.key not in free:
                continue
            outlook = self._outlook(context, task, memory["asked"].get(task.key), now)
            if outlook.fate is Fate.UNDER_WAY:
                continue
            if outlook.fate is not Fate.AGAIN:
                tick.failed.add(task.place)
                tick.told.append(
                    f"{stage} {task.key}: was asked for with these inputs, and is not there: {outlook.why}"
                )
                continue
            gate = gate_of(context.asset_graph_view.instance, context.asset_graph, tick.project, task, now)
            if gate.failed:
                tick.failed.add(task.place)
                tick.told.append(f"{stage} {task.key}: not asked for: {', '.join(gate.failed)} has failed")
            elif gate.running:
                continue
            elif gate.unanswered:
                self._ask_checks(tick, task, gate)
            else:
                requested.append(task)
                memory["asked"][task.key] = asdict(Asked(task.inputs, tick.code, outlook.tries, now))
                if (outside := STAGES[stage].outside) is not None:
                    memory["seen"][task.key] = glance(tick.project, outside(tick.project, task.key))
                again = f" again, since {outlook.why}" if outlook.why else ""
                tick.told.append(f"{stage} {task.key}: asked for{again}: {task.reason}")
        for task in tick.survey.held:
            if task.stage == stage:
                tick.told.append(f"{stage} {task.key}: held back: {task.reason}")
        tick.asked.update({(stage, partition_of(task.key)): task for task in requested})
        return dg.AutomationResult(context, _subset(context, requested), cursor=json.dumps(memory))

    def _outlook(self, context: dg.AutomationContext, task: Task, remembered: Any, now: float) -> Outlook:
        """What is to be done about a task that is due, as far as earlier runs of it say."""
        asked = Asked.read(remembered) if remembered is not None else None
        if asked is None or asked.inputs != task.inputs:
            return Outlook(Fate.AGAIN)
        return outlook_of(context.asset_graph_view.instance, task.stage, asked, self.tick.code, now)

    def _ask_checks(self, tick: Tick, task: Task, gate: Gate) -> None:
        """Have the checks that never answered evaluated, those whose time has come."""
        for check in gate.unanswered:
            tick.told.append(f"{task.stage} {task.key}: not asked for yet: {check.told}")
            if check.outlook.fate is Fate.AGAIN:
                tick.checks[check.key, check.partition] = check
            else:
                tick.failed.add(task.place)

    def _due(self, tick: Tick, stage: str, memory: dict[str, dict[str, Any]]) -> list[Task]:
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
        data, told, repository = super().evaluate_tick(context), self.condition.tick.told, context.repository_def
        assert repository is not None  # noqa: S101 - the base class needs it too
        for line in told:
            context.log.info(line)
        requests = [self._tagged(request) for request in data.run_requests or ()]
        requests += requests_of(self.condition.tick.checks.values(), repository)
        skipped = None if requests else self.condition.tick.summary[:MAX_SKIP_CHARS]
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
    priority = max(STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0) for task in tasks)
    tags = {
        "react/reason": "; ".join(f"{task.stage}: {task.reason}" for task in tasks)[:MAX_TAG_CHARS],
        **{INPUTS_TAG + task.stage: task.inputs for task in tasks},
        "dagster/priority": str(priority),
    }
    named = {"react/domain": domain, "react/method": method} if domain != ALL else {}
    return {**tags, **{name: value for name, value in named.items() if value}}


def _keys_of(context: dg.AutomationContext) -> set[str]:
    """The library's names of the candidates: partitions that exist and are not in progress."""
    if context.partitions_def is None:
        return set() if context.candidate_subset.is_empty else {ALL}
    # Dimensions are joined in the order of their names: domain, then method.
    return {key.replace("|", "/") for key in context.candidate_subset.expensively_compute_partition_keys()}


def _subset(context: dg.AutomationContext, tasks: Sequence[Task]) -> Any:
    if context.partitions_def is None:
        return context.candidate_subset if tasks else context.get_empty_subset()
    keys = {str(partition_of(task.key)) for task in tasks}
    return context.candidate_subset.compute_intersection_with_partition_keys(keys)
