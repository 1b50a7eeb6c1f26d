"""The run coordinator that gives each run the pod that its stages need.

`run_coordinator` of `dagster.yaml` names it. Runs of the UI, of sensors, schedules and backfills
all pass through it, in the process that asks for them.
"""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg

from react_pipeline.extensions.kubernetes.resources import largest, pod, table

CONFIG_TAG = "dagster-k8s/config"
MAX_RUNTIME_TAG = "dagster/max_runtime"


class StageRunCoordinator(dg.QueuedRunCoordinator):
    """Dagster's queue; a run that waits in it has tags with its pod and its longest time.

    Tags that a person set stay. Runs that build no stage, such as those of other code locations,
    get what the launcher's own `resources` say.
    """

    def __init__(self, resources: Mapping[str, Mapping[str, Any]] | None = None, **queue: Any):
        """Take Dagster's own arguments as `queue`, and `resources` as `resources.table` does.

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
