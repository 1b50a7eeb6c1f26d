"""The commands `browse`, `search`, `review`, `takedown` and `judge`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    Person,
    console,
    load_project,
    materialize_command,
    print_table,
)
from react_pipeline.extensions.predict import Source
from react_pipeline.store import InputError

if TYPE_CHECKING:
    from react_pipeline.extensions.pages.server import Board

Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
]
SET_AND_AFTER = "retrieved_set*"
"""What decisions make out of date, as `materialize --select` names it."""


def browse(port: Port = 1234, config: Config = None) -> None:
    """Browse the corpus in a browser: search it by texts and pictures, on this machine only; Ctrl-C
    stops it.
    """
    from react_pipeline.extensions.pages.search import CorpusBoard

    project = load_project(config)
    console.print("loading the index and the model ...")
    _serve(lambda: CorpusBoard(project), port)


def search(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image to look for, instead of a text.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="For a text: t2t (captions) or t2i (images); for an image: i2i or i2t."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1_000, help="How many pairs.")] = 12,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the contact sheet.")
    ] = Path("search.png"),
    config: Config = None,
) -> None:
    """Show the pairs of the corpus nearest to a text or an image, as a table and as a contact
    sheet.
    """
    from react_pipeline.extensions.pages.search import draw_pairs, search_pairs
    from react_pipeline.pages import one_line

    project = load_project(config)
    pairs = search_pairs(project, text, mode, k, image=image)
    key = next(name for name in ("source", "image_path", "url") if name in pairs)
    rows = [
        [pair["rank"] + 1, f"{pair['similarity']:.3f}", one_line(pair["caption"])[:100]]
        + [one_line(pair[key])]
        for pair in pairs.to_dict("records")
    ]
    print_table(["", "similarity", "caption", "file" if key == "source" else "key"], rows, right=2)
    draw_pairs(project, pairs, output)
    console.print(f"pictures: {output}")


def review(domain: Domain, by: Person, port: Port = 1236, config: Config = None) -> None:
    """Look through the retrieved pairs of a domain in a browser, the worst first, and reject them;
    Ctrl-C stops it.

    Every decision is at once on the disk, in DOMAIN.review.jsonl next to the domain's file.
    """
    project = load_project(config, [domain])
    from react_pipeline.extensions.pages.review import open_review

    with open_review(project, domain, by) as board:
        _serve(lambda: board, port)
        count = len(board.decisions)
    command = f"; next: {materialize_command(SET_AND_AFTER, domain)}"
    console.print(f"{count} decisions{command if count else ''}")


def takedown(
    image: Annotated[str, typer.Argument(help="SHA-256 or URL of an image.")],
    config: Config = None,
) -> None:
    """Keep an image out of all future sets, and list the sets and models that were made with it."""
    from react_pipeline.extensions.pages.review import find_uses, take_down

    project = load_project(config)
    take_down(project, image)
    uses = find_uses(project, image)
    if uses.empty:
        console.print("no published set has this image")
    else:
        print_table(list(uses.columns), uses.to_numpy().tolist())
    console.print(
        "The sets of all domains are due now, and are drawn again without it by automation or "
        "`react-pipeline materialize`. Older artifacts stay until `react-pipeline prune` removes "
        "them; registered models stay until you delete them. A training that runs now is not "
        "listed yet: give this command again when it has ended."
    )


def judge(
    domain: Domain,
    source: Source,
    by: Person,
    candidate: Annotated[
        str | None,
        typer.Option(help="A trained method. Default: gated-image, or the first of `methods`."),
    ] = None,
    against: Annotated[
        str, typer.Option(help="base, champion, or a method, which may be a control.")
    ] = "champion",
    port: Port = 1235,
    config: Config = None,
) -> None:
    """Judge the pictures on which two models disagree, in a browser, without labels; Ctrl-C stops
    it.

    Every answer is on the disk before the next picture is shown, and the same command resumes. The
    interval is valid whenever you stop.
    """
    project = load_project(config, [domain])
    choices = ("champion", *project.config.all_methods)
    for option, name in (("--candidate", candidate or "base"), ("--against", against)):
        if name not in choices:
            raise InputError(f"{option} {name!r}: choose from {', '.join(choices)}")
    from react_pipeline.extensions.predict import require_source

    require_source(source)
    from react_pipeline.extensions.pages.judge import open_judge, prepare_log
    from react_pipeline.extensions.pages.judgements import read_judgements
    from react_pipeline.tracking import Tracking

    path, pictures = prepare_log(project, domain, source, candidate, against, console.print)
    max_pixels = project.config.corpus.max_pixels
    with open_judge(path, by, max_pixels) as board:
        if not board.session.header.pictures:
            console.print("both models name every picture alike: there is nothing to judge")
            return
        board.pictures = pictures
        _serve(lambda: board, port)
        console.print(str(board.session))
    judged = read_judgements(project, domain)
    if judged is None:
        console.print("next: the same command, and judge a picture; nothing is judged yet")
        return
    console.print(f"next: {materialize_command('key:comparison or key:promotion', domain)}")
    Tracking(project).log_artifact(judged.publish(project))


def _serve(make: Callable[[], Board], port: int) -> None:
    """Serve a board, which is made once the port is bound, until Ctrl-C."""
    from react_pipeline.extensions.pages.server import create_app
    from react_pipeline.extensions.ui import serve_app

    try:
        serve_app(
            lambda: create_app(make()), port, lambda url: console.print(f"{url}\nCtrl-C stops.")
        )
    except KeyboardInterrupt:
        console.print("stopping ...")
