"""The command `react-pipeline judge`."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    console,
    load_project,
    materialize_command,
)

Source = Annotated[
    str,
    typer.Argument(
        help="A folder, file, quoted pattern, list (.txt), table (.parquet, .csv), or shards "
        "(.tar)."
    ),
]


def judge(
    domain: Domain,
    source: Source,
    candidate: Annotated[
        str | None,
        typer.Option(help="A trained method. Default: gated-image, or the first of `methods`."),
    ] = None,
    against: Annotated[
        str, typer.Option(help="base, champion, or a method, which may be a control.")
    ] = "champion",
    judge_name: Annotated[
        str | None, typer.Option("--judge", help="Who judges. Default: the user's name.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
    ] = 1235,
    config: Config = None,
) -> None:
    """Judge the pictures on which two models disagree, in a browser, without labels; Ctrl-C stops
    it.

    Every answer is on the disk before the next picture is shown, and the same command resumes. The
    interval is valid whenever you stop.
    """
    named = {candidate or "base", against} - {"champion"}
    project = load_project(config, [domain], sorted(named))
    from react_pipeline.extensions.predict import require_source

    require_source(source)
    from react_pipeline.extensions.judging.judgements import judgements_of
    from react_pipeline.extensions.judging.log import Session, describe, open_log
    from react_pipeline.extensions.judging.page import create_page
    from react_pipeline.extensions.judging.prepare import prepare_log
    from react_pipeline.extensions.ui import serve_app
    from react_pipeline.tracking import Tracking

    def report(line: str) -> None:
        console.print(line)

    def start(url: str) -> None:
        report(f"{url}\nKeys: 1, 2, n (neither), u (unsure), z (take back). Ctrl-C stops.")

    prepared = prepare_log(project, domain, source, candidate, against, report)
    with open_log(prepared.log, judge_name or getpass.getuser()) as log:
        try:
            serve_app(
                lambda: create_page(log, prepared.pictures, project.config.corpus.max_pixels),
                port,
                start,
            )
        except KeyboardInterrupt:
            report("stopping ...")
    report(describe(Session.read(prepared.log)))
    judged = judgements_of(project, domain)
    if judged is None:
        report("next: the same command, and judge a picture; nothing is judged yet")
        return
    report(f"next: {materialize_command('key:comparison or key:promotion', domain)}")
    Tracking.of(project).log_artifact(project, judged.publish(project))
