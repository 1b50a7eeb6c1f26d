"""The sensor `alerts`: looks at runs, ticks, decisions and the disk, and sends what is new.

Belongs here: what of Dagster is reported. Does not belong here: sending (`messages`). A message
that could not be sent is kept in the cursor and sent again; no step waits for it or fails by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from react_pipeline.assets import (
    ProjectResource,
    declare_sensor,
    instigator_names,
    planned_assets,
)
from react_pipeline.extensions.alerts.messages import (
    Message,
    decision_texts,
    decisions,
    disk_text,
    problems,
    send_all,
)
from react_pipeline.extensions.alerts.settings import AlertsConfig
from react_pipeline.extensions.automation import (
    TRY_TAG,
    WAIT_HOURS,
    ending_of,
    is_under_way,
    last_ticks,
)
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import load_domains, without_secrets
from react_pipeline.stage import STAGES
from react_pipeline.store import ReactError

INTERVAL_SECONDS = 60
MAX_RUNS = 100
"""Failed runs that one tick reports."""


@declare_sensor(
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends what people must know to the addresses of `alerts.to`: steps that failed "
    "for good or were blocked by a check, ticks that fail, a domain file or pipeline.yaml that is "
    "not valid, a store that does not answer, decisions on champions, a disk that is nearly full. "
    "Starts no run.",
)
def alerts(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult:
    """Report what is new since the last tick; the first one only remembers how things are."""
    before = json.loads(context.cursor) if context.cursor else {}
    try:
        pipeline = project.load()
        if not pipeline.config.section(AlertsConfig).to:
            return dg.SensorResult(skip_reason="alerts.to names no address")
        look = Look(context.instance, project, Manifests.of(pipeline))
        state = look.state()
        texts = list(look.news(before, state)) if before else []
    except ReactError as error:  # a mistake in pipeline.yaml, or a bucket that does not answer
        state = before | {"fault": str(error)}
        texts = [] if before.get("fault") else [("nothing is kept up to date", str(error))]
    if not (names := state.get("to")):
        return dg.SensorResult(skip_reason=state["fault"])
    faults = problems(names)
    messages = [Message(**record) for record in before.get("unsent", [])]
    if texts:
        # One message a tick: a hundred failed runs are one letter.
        topics = ", ".join(dict.fromkeys(topic for topic, _ in texts))
        body = without_secrets("\n".join(text for _, text in texts))
        messages += [Message(name, f"{state['project']}: {topics}", body) for name in names]
    unsent = send_all(messages)
    state["unsent"] = [message.record() for message in unsent]
    lines = [*faults, *(f"{topic}: {text}" for topic, text in texts)]
    lines += [f"{len(unsent)} messages are sent again in the next tick"] if unsent else []
    return dg.SensorResult(
        skip_reason="\n".join(lines)[:2_000] or "nothing new", cursor=json.dumps(state)
    )


@dataclass(frozen=True)
class Look:
    """One look at what people must know of a project, of an instance that it may share."""

    instance: dg.DagsterInstance
    resource: ProjectResource
    project: Project

    def state(self) -> dict[str, Any]:
        """How things are now, as far as the next tick compares with it."""
        newest = self.instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]),
            limit=MAX_RUNS,
            order_by="update_timestamp",
        )
        config = self.project.config
        return {
            "project": config.project,
            "to": config.section(AlertsConfig).to,
            "files": [str(problem) for problem in load_domains(config.domains)[1]],
            "runs": [record.dagster_run.run_id for record in newest],
            "ticks": self._failing_ticks(),
            "decisions": decisions(self.project),
            "disk": disk_text(self.project),
        }

    def news(self, before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Topic and text of everything that the last tick did not know."""
        for run_id in now["runs"]:
            run = self.instance.get_run_by_id(run_id) if run_id not in before["runs"] else None
            if run is not None and (text := self._ended_for_good(run)):
                yield "a run failed", text
        for name, error in now["ticks"].items():
            if name not in before["ticks"]:
                yield f"the sensor {name} fails", error
        for text in now["files"]:
            if text not in before.get("files", []):
                yield "a domain file is not valid", text
        for text in decision_texts(self.project, before["decisions"], now["decisions"]):
            yield "champion", text
        if now["disk"] and not before["disk"]:
            yield "the disk is nearly full", now["disk"]

    def _ended_for_good(self, run: dg.DagsterRun) -> str:
        """How the steps of a run failed, a line for each that neither Dagster nor `upkeep` starts
        again; "" if there is none, or the run made no asset of the project.
        """
        keys = planned_assets(self.instance, run.run_id)
        if is_under_way(run) or keys.isdisjoint(map(self.resource.key, STAGES)):
            return ""
        failures = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        steps = dict.fromkeys(entry.step_key or "" for entry in failures) or [""]
        partition = run.tags.get("dagster/partition", "")
        tries = int(run.tags.get(TRY_TAG, "0"))
        lines = []
        for step in steps:
            ending = ending_of(self.instance, run, step)
            again = ending.is_interrupted or (ending.is_transient and tries <= len(WAIT_HOURS))
            if not (tries and again):
                place = f"{step} {partition}".strip()
                lines.append(f"{place}: {ending.text}" if place else ending.text)
        return "\n".join(lines)

    def _failing_ticks(self) -> dict[str, str]:
        """The error of each sensor and schedule of the project whose last tick failed, by name."""
        names = instigator_names(self.resource)
        return {
            name: " ".join((tick.error.message if tick.error else "").split())
            for name, tick in last_ticks(self.instance)
            if name in names and tick.status.value == "FAILURE"
        }
