"""The commands `react-pipeline review` and `takedown`."""

from __future__ import annotations

from typing import Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    Person,
    console,
    load_project,
    materialize_command,
    person_name,
    print_table,
)

SET_AND_AFTER = "retrieved_set*"
"""What decisions make out of date, as `materialize --select` names it."""


def review(
    domain: Domain,
    by: Person = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")
    ] = 1236,
    config: Config = None,
) -> None:
    """Look through the retrieved pairs of a domain in a browser, the least sure first, and reject,
    move or pin them; Ctrl-C stops it.

    Every decision is on the disk before the next pair is shown, in DOMAIN.review.jsonl next to the
    domain's file.
    """
    project = load_project(config, [domain])
    from react_pipeline.extensions.review.log import open_log
    from react_pipeline.extensions.review.page import create_page
    from react_pipeline.extensions.review.pairs import ReviewedSet
    from react_pipeline.extensions.ui import serve_app

    def start(url: str) -> None:
        console.print(
            f"{url}\nKeys: k (keep), x (reject), m (move), p (pin), z (take back), c (next class). "
            "Ctrl-C stops."
        )

    pairs = ReviewedSet(project, domain)
    with open_log(project, domain, person_name(by)) as log:
        try:
            serve_app(lambda: create_page(pairs, log), port, start)
        except KeyboardInterrupt:
            console.print("stopping ...")
        verdicts = [decision.verdict for decision in log.decisions.values()]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("reject", "move", "pin"))
    command = f"; next: {materialize_command(SET_AND_AFTER, domain)}"
    console.print(f"{len(verdicts)} decisions ({counts}){command if verdicts else ''}")


def takedown(
    image: Annotated[str, typer.Argument(help="SHA-256 or URL of an image.")],
    config: Config = None,
) -> None:
    """Keep an image out of all future sets, and list the sets and models that were made with it."""
    from react_pipeline.extensions.review.takedown import take_down, uses_of

    project = load_project(config)
    take_down(project, image)
    uses = uses_of(project, image)
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
