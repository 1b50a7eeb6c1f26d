"""The sensor `upkeep`: asks for every artifact that is due, unless a run with the same inputs says otherwise.

Belongs here: one tick, the run requests with their tags, and the blocking checks before a task. Does not belong here:
what is due (`react_pipeline.upkeep`), what earlier runs say (`attempts`).
"""

import json
import time
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg

from react_pipeline.assets.attempts import (
    CODE_TAG,
    INPUTS_TAG,
    TRY_TAG,
    code_digest,
    ending_of,
    evaluations_of,
    is_under_way,
    outlook_of,
)
from react_pipeline.assets.partitions import DOMAINS, partition_of, partitions_of
from react_pipeline.assets.resources import ProjectParam
from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import AutomationConfig
from react_pipeline.store import ReactError
from react_pipeline.upkeep import Place, State, Survey, Task, survey

MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000


def upkeep(settings: AutomationConfig) -> dg.SensorDefinition:
    """The sensor; it runs from the start only if `automation.enabled` is set."""

    @dg.sensor(
        name="upkeep",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=settings.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED,
        description="Asks for every artifact that is missing or out of date and can be built now, once for the same "
        "inputs; the policy of training is `automation` in pipeline.yaml. A tick's log says what is asked for and why, "
        "and what is held back.",
    )
    def look(context: dg.SensorEvaluationContext, project: ProjectParam) -> dg.SensorResult:
        try:
            tick = Tick(context.instance, Manifests.of(project.load()), json.loads(context.cursor or "{}"))
            tick.look()
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        for line in tick.lines:
            context.log.info(line)
        # One job for all assets, as of the button Materialize: others hold assets of one kind of partition only.
        repository = context.repository_def
        assert repository is not None  # noqa: S101 - Dagster gives one to every sensor it evaluates
        job = repository.get_implicit_global_asset_job_def().name
        requests = [request.with_replaced_attrs(job_name=job) for request in tick.requests]
        skipped = None if requests else tick.summary[:MAX_SKIP_CHARS]
        return dg.SensorResult(run_requests=requests, skip_reason=skipped, cursor=json.dumps(tick.seen))

    return look


@dataclass
class Tick:
    """One tick and its requests; `seen` holds the state of the user's files at the time of each request."""

    instance: dg.DagsterInstance
    project: Project
    seen: dict[str, str]
    now: float = field(default_factory=time.time)
    lines: list[str] = field(default_factory=list)
    requests: list[dg.RunRequest] = field(default_factory=list)
    judged: set[Place] = field(default_factory=set)
    failed: set[Place] = field(default_factory=set)
    found: Survey = field(default_factory=Survey)

    def look(self) -> None:
        """Judge what is due, then again without what failed, since others need not wait for it."""
        slugs, before = sorted(self.instance.get_dynamic_partitions(DOMAINS)), None
        while before != self.failed:
            before = set(self.failed)
            self.found = survey(self.project, slugs, before)
            for task in (*self.found.tasks, *self._touched()):
                self._ask_once(task)
        self.lines += [f"{slug}: left out: {reason}" for slug, reason in self.found.unreadable.items()]
        self.lines += [f"{task.stage} {task.key}: held back: {task.reason}" for task in self.found.held]

    @cached_property
    def code(self) -> str:
        """Digest of the sources, read only in ticks that need it."""
        return code_digest()

    @property
    def summary(self) -> str:
        """What a tick says that asks for nothing: why, and what is out of date and is being built."""
        behind = sum(state in (State.DUE, State.WAITING) for state in self.found.states.values())
        queued = [f"{behind} not up to date yet: runs are queued or in progress"] if behind else []
        return "\n".join([*self.lines, *queued]) or "everything is up to date"

    def _touched(self) -> list[Task]:
        """Artifacts that are fresh by their manifest, but whose source files look different now."""
        fresh = {place: look for place, look in self.found.glances.items() if self.found.states[place] is State.FRESH}
        return [
            Task(*place, "its source files look different", look)
            for place, look in fresh.items()
            if self.seen.setdefault("/".join(place), look) != look
        ]

    def _ask_once(self, task: Task) -> None:
        if task.place in self.judged:
            return
        self.judged.add(task.place)
        outlook, name = outlook_of(self.instance, task, self.code, self.now), f"{task.stage} {task.key}"
        if outlook.fate == "leave":
            self.failed.add(task.place)
            self.lines.append(f"{name}: was asked for with these inputs: {outlook.why}")
        elif outlook.fate == "ask" and self._is_clear(task, name):
            again = f" again, since {outlook.why}" if outlook.why else ""
            self.lines.append(f"{name}: asked for{again}: {task.reason}")
            self.requests.append(request_of(task, self.code, outlook.tries))
            if task.place in self.found.glances:
                self.seen["/".join(task.place)] = self.found.glances[task.place]

    def _is_clear(self, task: Task, name: str) -> bool:
        """Whether the blocking checks of all that a task is made from passed.

        What has one that was planned and never evaluated is asked for again: it is reused, and its checks evaluated.
        """
        clear = True
        for place in STAGES[task.stage].parents_of(task.key).items():
            checks = evaluations_of(self.instance, *place)
            planned = [check for check in checks if check.latest_execution_status.value == "PLANNED"]
            runs = {check.check_key: self.instance.get_run_by_id(check.latest_planned_run_id) for check in planned}
            if any(run is not None and is_under_way(self.instance, run) for run in runs.values()):
                clear = False
                continue
            if runs:  # they may have been evaluated, and their runs ended, since that was read
                checks = evaluations_of(self.instance, *place)
            for check in checks:
                status, what = check.latest_execution_status.value, f"{check.check_key.name} of {place[0]}"
                if status == "FAILED" and check.is_current:
                    clear = False
                    self.failed.add(task.place)
                    self.lines.append(f"{name}: not asked for: {what} has failed")
                elif status == "PLANNED":
                    clear, run, what = False, runs.get(check.check_key), f"{what} was not evaluated"
                    step = f"{place[0]}_{check.check_key.name}"
                    why = ending_of(self.instance, run, step).text if run else "its run is gone"
                    self.lines.append(f"{name}: not asked for yet: {what}: {why}")
                    self._ask_once(Task(*place, what, self.project.store.current(*place).fingerprint))
                    self.failed |= {task.place} if place in self.failed else set()
        return clear


def request_of(task: Task, code: str, tries: int) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and are what later ticks know of it."""
    domain, _, method = ("" if task.key == ALL else task.key).partition("/")
    priority = STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0)
    partition, definition = partition_of(task.key), partitions_of(STAGES[task.stage], [method])
    tags = {
        "react/reason": f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        INPUTS_TAG + task.stage: task.inputs,
        CODE_TAG: code,
        TRY_TAG: str(tries),
        "react/domain": domain,
        "react/method": method,
        "dagster/priority": str(priority),
        **(definition.get_tags_for_partition_key(partition) if partition and definition else {}),
    }
    tags = {name: tag for name, tag in tags.items() if tag}
    return dg.RunRequest(partition_key=partition, tags=tags, asset_selection=[dg.AssetKey(task.stage)])
