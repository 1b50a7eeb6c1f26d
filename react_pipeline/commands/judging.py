"""The command `react-pipeline judge`: a verdict on two models from pictures without labels."""

import getpass
import signal
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project


def judge(
    domain: Annotated[str, typer.Argument(help="Slug of the domain.")],
    source: Annotated[
        str, typer.Argument(help="A folder, file, quoted pattern, list (.txt), table, or shards (.tar).")
    ],
    candidate: Annotated[
        str | None, typer.Option(help="A trained method. Default: gated-image, or the first of `methods`.")
    ] = None,
    against: Annotated[str, typer.Option(help="base, champion, or a method; a control too.")] = "champion",
    judge_name: Annotated[str | None, typer.Option("--judge", help="Who judges. Default: the user's name.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where the page answers; 0 takes a free port.")] = 1235,
    config: Config = None,
) -> None:
    """Judge the pictures on which two models disagree, in a browser, without labels; Ctrl-C stops it.

    Every answer is on the disk before the next picture is shown, and the same command resumes. The interval is valid
    whenever you stop.
    """
    from react_pipeline.browse import serve_app
    from react_pipeline.evaluation import Session, describe, judgements_of, open_log
    from react_pipeline.tracking import Tracking
    from react_pipeline.use import create_page, prepare_log

    project = load_project(config)

    def report(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepared = prepare_log(project, domain, source, candidate, against, report)
    with open_log(prepared.log, judge_name or getpass.getuser()) as log:
        try:
            serve_app(
                lambda: create_page(log, prepared.pictures, project.config.corpus.max_pixels),
                port,
                lambda url: report(f"{url}\nKeys: 1, 2, n (neither), u (unsure), z (take back). Ctrl-C stops."),
            )
        except KeyboardInterrupt:
            report("stopping ...")
    report(describe(Session.read(prepared.log)))
    if (judged := judgements_of(project, domain)) is not None:
        Tracking.of(project).log_artifact(project, judged.publish(project))
        report(f"next: react-pipeline materialize --select 'key:comparison or key:promotion' --domain {domain}")
