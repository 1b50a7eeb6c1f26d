"""Notes: the description of a run in two lines, and the addresses that lead from MLflow to Dagster
and back.
"""

import os

from react_pipeline.project import Project
from react_pipeline.settings import has_secret
from react_pipeline.stage import ALL, STAGES

DAGSTER_VARIABLE, MLFLOW_VARIABLE = "REACT_DAGSTER_URL", "REACT_MLFLOW_URL"
"""Environment variables with the address at which a browser finds the user interface, such as
http://127.0.0.1:3000.

They win over `dagster_url` and `mlflow_url` of `pipeline.yaml`, because whoever starts a server
knows its port.
"""

NOTE_TAG = "mlflow.note.content"
"""The description that MLflow's page of a run shows."""

RUN_URL_TAG, ASSET_URL_TAG = "dagster.run_url", "dagster.asset_url"


def dagster_url(project: Project) -> str:
    """Where a browser finds Dagster: the environment's address, else `dagster_url` of the project,
    else "".
    """
    return _address(DAGSTER_VARIABLE) or (project.config.dagster_url or "").rstrip("/")


def mlflow_url(configured: str | None, tracking_uri: str) -> str:
    """Where a browser finds MLflow: the environment's address, else the `configured` one, else the
    server's own.

    What runs ask need not be what a browser can reach: it may be a name inside a network, or behind
    a proxy. A database has no address of its own: "".
    """
    address = _address(MLFLOW_VARIABLE) or (configured or "").rstrip("/")
    return address or (tracking_uri.rstrip("/") if tracking_uri.startswith("http") else "")


def links(stage: str, dagster: str, dagster_run_id: str) -> dict[str, str]:
    """Tags that lead to the asset and to the run in Dagster; none where its address is not known."""
    if not dagster:
        return {}
    run = {RUN_URL_TAG: f"{dagster}/runs/{dagster_run_id}"} if dagster_run_id else {}
    return {ASSET_URL_TAG: f"{dagster}/assets/{stage}", **run}


def note(stage: str, key: str, dagster: str, dagster_run_id: str) -> str:
    """What a run is, and on the second line the way to Dagster; Markdown."""
    domain, _, method = key.partition("/")
    of = "" if key == ALL else f" of `{domain}`" + (f", method `{method}`" if method else "")
    lines = [
        f"**{stage}**{of}: "
        f"{STAGES[stage].about if stage in STAGES else 'an artifact of the pipeline'}."
    ]
    addresses = links(stage, dagster, dagster_run_id)
    if addresses:
        shown = [f"[asset]({addresses[ASSET_URL_TAG]})"]
        shown += (
            [f"[run {dagster_run_id[:8]}]({addresses[RUN_URL_TAG]})"]
            if RUN_URL_TAG in addresses
            else []
        )
        lines.append(f"In Dagster: {', '.join(shown)}.")
    elif dagster_run_id:
        lines.append(f"Made by the Dagster run `{dagster_run_id}`.")
    return "\n\n".join(lines)


def _address(variable: str) -> str:
    address = os.environ.get(variable, "").rstrip("/")
    return (
        address if address.startswith(("http://", "https://")) and not has_secret(address) else ""
    )
