"""The run coordinator that gives each run the pod that its stages need.

`run_coordinator` of `dagster.yaml` names it. Runs of the UI, of sensors, schedules and backfills
all pass through it, in the process that asks for them. Does not belong here: what a step really
needs (`react-pipeline plan`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, ValidationError

from react_pipeline.stage import STAGES, Stage
from react_pipeline.store import InputError

CONFIG_TAG = "dagster-k8s/config"
MAX_RUNTIME_TAG = "dagster/max_runtime"


class StageRunCoordinator(dg.QueuedRunCoordinator):
    """Dagster's queue; a run that waits in it has tags with its pod and its longest time.

    Tags that a person set stay. Runs that build no stage, such as those of other code locations,
    get what the launcher's own `resources` say.
    """

    def __init__(self, resources: Mapping[str, Mapping[str, Any]] | None = None, **queue: Any):
        """Take Dagster's own arguments as `queue`, and `resources` as `table` does.

        Raises:
            InputError: If `resources` names something unknown.
        """
        super().__init__(**queue)
        self._resources = table(resources or {})

    @classmethod
    def config_type(cls) -> Any:
        """Return Dagster's own fields, and `resources`."""
        own = dg.Field(dict, is_required=False, description="Of each kind or stage, in its pod.")
        return {**super().config_type(), "resources": own}  # type: ignore[dict-item]

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Any:
        """Make one; called by Dagster."""
        return cls(inst_data=inst_data, **config_value)

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        """Put a run into the queue."""
        run = context.dagster_run
        checked = [check.asset_key for check in run.asset_check_selection or ()]
        names = {key.path[-1] for key in [*(run.asset_selection or ()), *checked]}
        if rows := [self._resources[name] for name in names & self._resources.keys()]:
            needs = largest(rows)
            tags = {
                CONFIG_TAG: json.dumps(pod(needs)),
                MAX_RUNTIME_TAG: f"{3600 * needs.hours:.0f}",
            }
            new = {name: value for name, value in tags.items() if name not in run.tags}
            self._instance.add_run_tags(run.run_id, new)
        return super().submit_run(context)


class Resources(BaseModel, frozen=True, extra="forbid"):
    """What one pod may use.

    Attributes:
        cpu: Cores that are reserved; the pod may use more.
        memory_gib: Memory, reserved and the limit; it includes what is in `/dev/shm`.
        gpus: GPUs of NVIDIA.
        shm_gib: Size of `/dev/shm`, through which loaders hand over batches; 0: the 64 MB of a
            container.
        hours: After this time the run is ended, and fails.
    """

    cpu: float
    memory_gib: float
    gpus: int = 0
    shm_gib: float = 0
    hours: float = 24


GPU_RESOURCE = "nvidia.com/gpu"
"""Also the key by which nodes with GPUs keep other pods away."""

GATHERING, CPU, GPU = "gathering", "cpu", "gpu"
KINDS = {
    GATHERING: Resources(cpu=1, memory_gib=4),
    CPU: Resources(cpu=4, memory_gib=16, hours=168),
    GPU: Resources(cpu=8, memory_gib=32, gpus=1, shm_gib=8, hours=168),
}
"""Stages that only gather results, those that need no device, those of the pool `gpu`."""


def resource_kind(stage: Stage) -> str:
    """Return the kind of a stage: its pool decides whether it needs a GPU."""
    if stage.pool == "gpu":
        return GPU
    return GATHERING if stage.gathers else CPU


def table(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Resources]:
    """Return the resources of every stage.

    Args:
        changes: Fields of `Resources` that differ, by kind or by stage; a stage's come last.

    Raises:
        InputError: If a kind, stage or field is unknown, or a value is wrong.
    """
    if unknown := changes.keys() - KINDS.keys() - STAGES.keys():
        raise InputError(
            f"run_coordinator: resources.{min(unknown)}: no kind or stage; there are "
            f"{', '.join([*KINDS, *STAGES])}"
        )
    rows = {}
    for name, stage in STAGES.items():
        kind = resource_kind(stage)
        own = {**changes.get(kind, {}), **changes.get(name, {})}
        try:
            rows[name] = Resources(**KINDS[kind].model_dump() | own)
        except ValidationError as error:
            raise InputError(
                f"run_coordinator: resources, {kind} or {name}: {error}; there are "
                f"{', '.join(Resources.model_fields)}"
            ) from error
    return rows


def largest(rows: Sequence[Resources]) -> Resources:
    """Return what is enough for all of these, one after another in one pod."""
    most = {name: max(getattr(row, name) for row in rows) for name in Resources.model_fields}
    return Resources(**most | {"hours": sum(row.hours for row in rows)})


def pod(resources: Resources) -> dict[str, Any]:
    """Return the value of the tag `dagster-k8s/config` of a run."""
    memory = f"{resources.memory_gib:g}Gi"
    limits: dict[str, str] = {"memory": memory}
    requests = {"cpu": f"{resources.cpu:g}", "memory": memory}
    container: dict[str, Any] = {"resources": {"requests": requests, "limits": limits}}
    spec: dict[str, Any] = {"automount_service_account_token": False}
    if resources.gpus:
        limits[GPU_RESOURCE] = str(resources.gpus)
        spec["tolerations"] = [{"key": GPU_RESOURCE, "operator": "Exists"}]
    if resources.shm_gib:
        size = f"{resources.shm_gib:g}Gi"
        container["volume_mounts"] = [{"name": "shm", "mount_path": "/dev/shm"}]  # noqa: S108
        spec["volumes"] = [{"name": "shm", "empty_dir": {"medium": "Memory", "size_limit": size}}]
    return {"container_config": container, "pod_spec_config": spec}
