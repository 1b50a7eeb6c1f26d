"""The command `react-pipeline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from react_pipeline.commands import Config, console, load_project
from react_pipeline.stop import stop_in_own_way


def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
    ] = 1234,
    config: Config = None,
) -> None:
    """Browse the corpus in a browser: search it by texts and pictures, on this machine only; Ctrl-C
    stops it.
    """
    from react_pipeline.extensions.corpus_page.page import serve_corpus

    project = load_project(config)

    def start(url: str) -> None:
        stop_in_own_way()
        console.print(f"{url}\nCtrl-C stops.")

    console.print("loading the index and the model ...")
    serve_corpus(project, port, start)
