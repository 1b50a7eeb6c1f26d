"""The command `react-pipeline ui`."""

from __future__ import annotations

from typing import Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_start_page


def ui(
    dagster_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, help="Port of Dagster. Default: the first free one from 3000."
        ),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, help="Port of MLflow. Default: the first free one from 5000."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Start the Dagster and MLflow user interfaces on this machine only; Ctrl-C stops both."""
    from react_pipeline.extensions.ui.servers import serve, watch
    from react_pipeline.tracking import mlflow_url

    project = load_project(config)
    console.print("starting; this takes up to a minute ...")
    with serve(project, dagster_port, mlflow_port) as servers:
        addresses = {server.name: server.url for server in servers if server.url}
        if "mlflow" not in addresses:
            addresses["mlflow"] = mlflow_url(
                project.config.mlflow_url, project.config.tracking_uri or ""
            )
        print_start_page(project, addresses=addresses)
        console.print("Ctrl-C stops.")
        try:
            watch(servers)
        except KeyboardInterrupt:
            console.print("stopping ...")
