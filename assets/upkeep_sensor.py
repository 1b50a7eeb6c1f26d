"""The sensor `upkeep`: asks for every artifact that is due, unless a run with the same inputs says
otherwise.

Belongs here: one tick, when something is asked for again, and the blocking checks before a task.
Does not belong here: what is due (`react_pipeline.upkeep`), reading a run (`runs`). Runs are the
only memory of what was asked for: their tags hold the digests of the inputs and of the sources, and
the number of the try.
"""

import hashlib
import inspect
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

import react_pipeline
from react_pipeline import assets
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.partitions import DOMAINS, name_of, partition_of, partitions_of
from react_pipeline.assets.resources import ProjectParam
from react_pipeline.assets.runs import (
    HIDDEN,
    INPUTS_TAG,
    METHOD_TAG,
    REASON_TAG,
    ending_of,
    is_under_way,
    newest_run,
    tags_of_key,
)
from react_pipeline.extension import extensions
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import AutomationConfig
from react_pipeline.stage import STAGES
from react_pipeline.store import ReactError
from react_pipeline.upkeep import Place, State, Survey, Task, survey

CODE_TAG, TRY_TAG = f"{HIDDEN}code", f"{HIDDEN}try"
MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000

WAIT_HOURS = (1, 2, 4, 8, 16)
"""Wait before each further try after a transient fault: together longer than an outage of a day."""


def upkeep(settings: AutomationConfig, loaded: Collection[str]) -> dg.SensorDefinition:
    """The sensor; it runs from the start only if `automation.enabled` is set.

    It asks for nothing but the stages `loaded`, whose assets Dagster has.
    """

    @dg.sensor(
        name="upkeep",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=settings.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.enabled
        else dg.DefaultSensorStatus.STOPPED,
        description="Asks for every artifact that is missing or out of date and can be built now, "
        "once for the same inputs; the policy of training is `automation` in pipeline.yaml. A "
        "tick's log says what is asked for and why, and what is held back.",
    )
    def look(context: dg.SensorEvaluationContext, project: ProjectParam) -> dg.SensorResult:
        try:
            tick = Tick(context.instance, Manifests.of(project.load()), loaded)
            tick.look(sorted(context.instance.get_dynamic_partitions(DOMAINS)))
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error))
        lines = [f"{stage} {key}: {why}" for (stage, key), why in tick.failed.items()]
        for task, (_, why) in tick.asked.items():
            again = f" again, since its {why}" if why else ""
            lines.append(f"{task.stage} {task.key}: asked for{again}: {task.reason}")
        lines += [f"{slug}: left out: {reason}" for slug, reason in tick.found.unreadable.items()]
        lines += [f"{task.stage} {task.key}: held back: {task.reason}" for task in tick.found.held]
        for line in lines:
            context.log.info(line)
        behind = sum(state in (State.DUE, State.WAITING) for state in tick.found.states.values())
        lines += [f"{behind} not up to date yet: runs are queued or in progress"] if behind else []
        requests = [request_of(task, tick.code, tries) for task, (tries, _) in tick.asked.items()]
        skipped = (
            None if requests else "\n".join(lines)[:MAX_SKIP_CHARS] or "everything is up to date"
        )
        return dg.SensorResult(run_requests=requests, skip_reason=skipped)

    return look


@dataclass
class Tick:
    """One look at what is due, and at its runs; it writes nothing.

    Attributes:
        failed: What is not asked for, and why.
        asked: What is asked for: the number of the try, and how it has failed before.
    """

    instance: dg.DagsterInstance
    project: Project
    loaded: Collection[str] = field(default_factory=lambda: STAGES)
    code: str = field(default_factory=lambda: code_digest())
    judged: set[Place] = field(default_factory=set)
    failed: dict[Place, str] = field(default_factory=dict)
    asked: dict[Task, tuple[int, str]] = field(default_factory=dict)
    found: Survey = field(default_factory=Survey)

    def look(self, slugs: Sequence[str]) -> None:
        """Judge what is due, then again without what failed, since others need not wait for it."""
        before = -1
        while before != len(self.failed):
            before = len(self.failed)
            self.found = survey(self.project, slugs, self.failed)
            for task in self.found.tasks:
                self._ask_once(task)

    def _ask_once(self, task: Task) -> None:
        if task.place in self.judged:
            return
        self.judged.add(task.place)
        if task.stage not in self.loaded:
            self.failed[task.place] = (
                "not asked for: reload the code location, which was loaded without this asset"
            )
            return
        tries, why = self._outlook(task)
        if not tries and why:
            self.failed[task.place] = f"was asked for with these inputs: its {why}"
        elif tries and self._is_clear(task):
            self.asked[task] = tries, why

    def _outlook(self, task: Task) -> tuple[int, str]:
        """Which try is asked for now and why; 0: none, and why, or "" while a run is active.

        It follows from the last run of the artifact, and the last with today's inputs.
        """
        newest = newest_run(self.instance, task.place)
        records = self.instance.get_run_records(
            dg.RunsFilter(tags={INPUTS_TAG + task.stage: task.inputs}), limit=1
        )
        run = records[0].dagster_run if records else None
        if is_under_way(self.instance, newest) or is_under_way(self.instance, run):
            return 0, ""
        if (
            run is None
            and newest
            and newest.is_failure_or_canceled
            and INPUTS_TAG + task.stage not in newest.tags
        ):
            return 1, ending_of(
                self.instance, newest, task.stage
            ).text  # as one that a person started
        if run is None or (newest and newest.run_id != run.run_id and newest.is_success):
            return 1, ""  # never asked for, or another version was built since
        tries = int(run.tags.get(TRY_TAG, "1"))
        why, is_interrupted, is_transient = ending_of(self.instance, run, task.stage)
        if run.status == dg.DagsterRunStatus.CANCELED:
            return 0, f"{why}; materialize it to run it again"
        if run.tags.get(CODE_TAG, self.code) != self.code:
            return 1, f"run {run.run_id[:8]} had other code"
        if is_interrupted:
            return tries, why
        if not is_transient:
            return (
                0,
                f"{why}. It will keep failing until something changes; or materialize it by hand",
            )
        if tries > len(WAIT_HOURS):
            return 0, f"{why}; tried {tries} times. Fix the cause, then materialize it by hand"
        due = (records[0].end_time or records[0].update_timestamp.timestamp()) + 3600 * WAIT_HOURS[
            tries - 1
        ]
        if time.time() >= due:
            return tries + 1, why
        when = f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
        return 0, f"{why}; retried after {when}, try {tries + 1} of {len(WAIT_HOURS) + 1}"

    def _is_clear(self, task: Task) -> bool:
        """Whether the blocking checks of all that a task is made from passed.

        What has one that was planned and never evaluated is asked for again: it is reused, and its
        checks evaluated.
        """
        for place in (
            STAGES[task.stage].parents_of(task.key, self.project.config.two_encoders).items()
        ):
            keys = blocking_checks(place[0])
            partition = name_of(place[1])
            if keys and is_under_way(self.instance, newest_run(self.instance, place)):
                return False  # it may evaluate them now
            partitions = [partition] if partition else None
            for check in self.instance.event_log_storage.get_asset_check_partition_info(
                keys, None, partitions
            ):
                status = check.latest_execution_status.value
                what = f"{check.check_key.name} of {place[0]}"
                if status == "FAILED" and check.is_current:
                    self.failed[task.place] = f"not asked for: {what} has failed"
                    return False
                if status == "PLANNED":
                    if not is_under_way(
                        self.instance, self.instance.get_run_by_id(check.latest_planned_run_id)
                    ):
                        fingerprint = self.project.store.current(*place).fingerprint
                        self._ask_once(Task(*place, f"{what} was not evaluated", fingerprint))
                        if place in self.failed:
                            self.failed[task.place] = f"not asked for: {what} was not evaluated"
                    return False
        return True


def request_of(task: Task, code: str, tries: int) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and are what later ticks know of it."""
    priority = STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0)
    # Of a method that was added to pipeline.yaml after the code location was loaded, too.
    key_tags = tags_of_key(task.key)
    partition = partition_of(task.key)
    definition = partitions_of(STAGES[task.stage], [key_tags.get(METHOD_TAG, "")])
    tags = {
        **key_tags,
        REASON_TAG: f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        INPUTS_TAG + task.stage: task.inputs,
        CODE_TAG: code,
        TRY_TAG: str(tries),
        "dagster/priority": str(priority),
        **(definition.get_tags_for_partition_key(partition) if partition and definition else {}),
    }
    tags = {name: tag for name, tag in tags.items() if tag}
    return dg.RunRequest(
        partition_key=partition, tags=tags, asset_selection=[dg.AssetKey(task.stage)]
    )


def code_digest() -> str:
    """Digest of the sources that a run would load now: a run that failed may succeed with other
    code.
    """
    files = {
        path
        for package in (react_pipeline, assets)
        for path in Path(package.__path__[0]).rglob("*.py")
    }
    files |= {Path(inspect.getfile(type(extension))) for extension in extensions().values()}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]
