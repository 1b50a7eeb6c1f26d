"""The sensor `upkeep`: asks for every artifact that is due, unless a run with the same inputs says otherwise.

Belongs here: one tick, the run requests with their tags, and the blocking checks before a task. Does not belong here:
what is due (`react_pipeline.upkeep`), what earlier runs say (`attempts`).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg

from assets.attempts import (
    CHECK_TAG,
    CODE_TAG,
    INPUTS_TAG,
    TRY_TAG,
    code_digest,
    failure_of,
    is_under_way,
    outlook_by_tag,
    outlook_of,
    short,
)
from assets.declared import blocking_checks
from assets.partitions import DOMAINS, partition_of, partitions_of
from assets.resources import ProjectParam
from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import AutomationConfig
from react_pipeline.store import ReactError
from react_pipeline.upkeep import Place, State, Survey, Task, survey

MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000
CHECK_PRIORITY = "90"
"""Of a run that evaluates a check: seconds of work that others wait for."""


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
    failed: set[Place] = field(default_factory=set)
    found: Survey = field(default_factory=Survey)

    def look(self) -> None:
        """Judge what is due, then again without what failed, since others need not wait for it."""
        slugs, judged = sorted(self.instance.get_dynamic_partitions(DOMAINS)), set[Place]()
        before = None
        while before != self.failed:
            before = set(self.failed)
            self.found = survey(self.project, slugs, before)
            for task in (*self.found.tasks, *self._touched()):
                if task.place not in judged:
                    judged.add(task.place)
                    self._judge(task)
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

    def _judge(self, task: Task) -> None:
        outlook, name = outlook_of(self.instance, task, self.code, self.now), f"{task.stage} {task.key}"
        if outlook.fate == "under way":
            return
        if outlook.fate == "leave":
            self.failed.add(task.place)
            self.lines.append(f"{name}: was asked for with these inputs and is missing: {outlook.why}")
        elif self._is_clear(task, name):
            again = f" again, since {outlook.why}" if outlook.why else ""
            self.lines.append(f"{name}: asked for{again}: {task.reason}")
            self.requests.append(request_of(task, self.code, outlook.tries))
            if task.place in self.found.glances:
                self.seen["/".join(task.place)] = self.found.glances[task.place]

    def _is_clear(self, task: Task, name: str) -> bool:
        """Whether the blocking checks of all that a task is made from passed; one never evaluated is asked for."""
        clear = True
        for stage, key in STAGES[task.stage].parents_of(task.key).items():
            for check in self._executions(stage, key, blocking_checks(stage)):
                run = self.instance.get_run_by_id(check.latest_planned_run_id) if _is_planned(check) else None
                if run is not None and is_under_way(run):
                    clear = False
                    continue
                # It may have been evaluated, and its run ended, since that was read.
                (last,) = self._executions(stage, key, [check.check_key]) if _is_planned(check) else [check]
                if _is_planned(last):
                    clear = False
                    self._evaluate(task, name, stage, key, last.check_key.name, run)
                elif last.latest_execution_status.value == "FAILED" and last.is_current:
                    clear = False
                    self.failed.add(task.place)
                    self.lines.append(f"{name}: not asked for: {last.check_key.name} of {stage} has failed")
        return clear

    def _executions(self, stage: str, key: str, checks: list[dg.AssetCheckKey]) -> Any:
        partition = partition_of(key)
        wanted = None if partition is None else [str(partition)]
        return self.instance.event_log_storage.get_asset_check_partition_info(checks, partition_keys=wanted)

    def _evaluate(self, task: Task, name: str, stage: str, key: str, check: str, run: dg.DagsterRun | None) -> None:
        """Ask for a check that was planned for an artifact and never evaluated, if its time has come."""
        tag = {CHECK_TAG + check: self.project.store.current(stage, key).fingerprint}
        outlook = outlook_by_tag(self.instance, tag, f"{stage}_{check}", self.code, self.now, is_check=True)
        ask = outlook.fate == "ask"
        why = outlook.why or _why_unevaluated(self.instance, run, f"{stage}_{check}")
        then = "evaluated now" if ask else "or execute it on the page Checks of its asset"
        self.lines.append(f"{name}: not asked for yet: {check} of {stage} was not evaluated: {why}; {then}")
        if outlook.fate == "leave":
            self.failed.add(task.place)
        request = check_request_of(stage, key, check, {**tag, CODE_TAG: self.code, TRY_TAG: str(outlook.tries)})
        if ask and request not in self.requests:
            self.requests.append(request)


def request_of(task: Task, code: str, tries: int) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and are what later ticks know of it."""
    domain, _, method = ("" if task.key == ALL else task.key).partition("/")
    priority = STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0)
    tags = {
        "react/reason": f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        INPUTS_TAG + task.stage: task.inputs,
        CODE_TAG: code,
        TRY_TAG: str(tries),
        "react/domain": domain,
        "react/method": method,
        "dagster/priority": str(priority),
    }
    return _request(task.stage, task.key, tags, asset_selection=[dg.AssetKey(task.stage)])


def check_request_of(stage: str, key: str, check: str, tags: Mapping[str, str]) -> dg.RunRequest:
    """A run that evaluates one check and builds nothing."""
    named = {"react/reason": f"{check} of {stage} was not evaluated", "dagster/priority": CHECK_PRIORITY}
    keys = [dg.AssetCheckKey(dg.AssetKey(stage), check)]
    return _request(stage, key, {**tags, **named}, asset_selection=[], asset_check_keys=keys)


def _request(stage: str, key: str, tags: Mapping[str, str], **what: Any) -> dg.RunRequest:
    partition, definition = partition_of(key), partitions_of(STAGES[stage], key.split("/")[1:])
    if partition is not None and definition is not None:
        tags = {**tags, **definition.get_tags_for_partition_key(partition)}
    return dg.RunRequest(partition_key=partition, tags={name: tag for name, tag in tags.items() if tag}, **what)


def _is_planned(check: Any) -> bool:
    return bool(check.latest_execution_status.value == "PLANNED")


def _why_unevaluated(instance: dg.DagsterInstance, run: dg.DagsterRun | None, step: str) -> str:
    if run is None:
        return "its run is gone"
    if run.status == dg.DagsterRunStatus.FAILURE:
        return f"run {short(run)} failed: {failure_of(instance, run, step).reason}"
    return f"run {short(run)} ended before it"
