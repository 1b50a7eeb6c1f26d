"""Notes: the description of a run in two lines, and the addresses that lead from MLflow to Dagster
and back.
"""

import os

from react_pipeline.settings import has_secret, without_secrets
from react_pipeline.stage import STAGES, domain_and_method

DAGSTER_VARIABLE, MLFLOW_VARIABLE = "REACT_DAGSTER_URL", "REACT_MLFLOW_URL"
"""Environment variables with the address at which a browser finds the user interface, such as
http://127.0.0.1:3000.

They win over `dagster_url` and `mlflow_url` of `pipeline.yaml`, because whoever starts a server
knows its port.
"""

NOTE_TAG = "mlflow.note.content"
"""The description that MLflow's page of a run shows."""

RUN_URL_TAG = "dagster.run_url"

RESULTS_VIEW = "results"
"""The saved view of the results of all methods."""

TRAINING_PAGES = "workflowType=machine_learning"
"""Without it MLflow 3.17 opens an experiment as one of language models; no tag changes that."""


def dagster_url(configured: str | None) -> str:
    """Return where a browser finds Dagster: the environment's address, else the `configured` one,
    else "".
    """
    return _address(DAGSTER_VARIABLE, configured)


def mlflow_url(configured: str | None, tracking_uri: str) -> str:
    """Return where a browser finds MLflow: the environment's address, else the `configured` one,
    else the server's own.

    What runs ask need not be what a browser can reach: it may be a name inside a network, or behind
    a proxy. A database has no address of its own: "".
    """
    own = tracking_uri if tracking_uri.startswith("http") else ""
    return _address(MLFLOW_VARIABLE, configured or own)


def view_url(address: str, experiment_id: str, view: str = RESULTS_VIEW) -> str:
    """Return where the server at `address` shows a saved view."""
    return f"{address}/#/experiments/{experiment_id}/runs?{TRAINING_PAGES}&viewStateShareKey={view}"


def run_url(dagster: str, dagster_run_id: str) -> str:
    """Return the page of a run in Dagster; "" where its address is not known."""
    return f"{dagster}/runs/{dagster_run_id}" if dagster and dagster_run_id else ""


def note(stage: str, key: str, dagster: str, dagster_run_id: str) -> str:
    """Return what a run is, and on the second line the way to Dagster; Markdown."""
    domain, method = domain_and_method(key)
    of = f" of `{domain}`" if domain else ""
    of += f", method `{method}`" if method else ""
    about = STAGES[stage].about if stage in STAGES else "an artifact of the pipeline"
    lines = [f"**{stage}**{of}: {about}."]
    if url := run_url(dagster, dagster_run_id):
        lines.append(f"In Dagster: [run {dagster_run_id[:8]}]({url}).")
    elif dagster_run_id:
        lines.append(f"Made by the Dagster run `{dagster_run_id}`.")
    return "\n\n".join(lines)


def short_reason(error: Exception) -> str:
    """Return the text of an error as one line of a log, without passwords of addresses in it."""
    return without_secrets(" ".join(str(error).split()))[:300]


def _address(variable: str, configured: str | None) -> str:
    address = os.environ.get(variable, "")
    if not address.startswith(("http://", "https://")) or has_secret(address):
        address = configured or ""
    return address.rstrip("/")
