"""The commands `react-pipeline review`, `improve` and `takedown`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    Person,
    console,
    load_project,
    materialize_command,
    name_of,
    print_table,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.review.improve import Comparison, Improvement

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
    with open_log(project, domain, name_of(by)) as log:
        try:
            serve_app(lambda: create_page(pairs, log), port, start)
        except KeyboardInterrupt:
            console.print("stopping ...")
        verdicts = [decision.verdict for decision in log.decisions.values()]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("reject", "move", "pin"))
    command = f"; next: {materialize_command(SET_AND_AFTER, domain)}"
    console.print(f"{len(verdicts)} decisions ({counts}){command if verdicts else ''}")


def improve(
    domain: Domain,
    tries: Annotated[
        int, typer.Option(min=1, help="Changes to try; each is retrieved twice.")
    ] = 20,
    write: Annotated[
        bool, typer.Option("--write", help="Write the changes that help into the domain's files.")
    ] = False,
    config: Config = None,
) -> None:
    """Try synonyms and rejections of the classes that held-out pairs confuse, each beside its
    control, and show the change of the domain that helps beyond noise.

    The retrieved set must be materialized. No labelled image is looked at.
    """
    from tqdm import tqdm

    from react_pipeline.extensions.review.improve import (
        LEVEL,
        Trial,
        diff_of,
        rejections_of,
        write_changes,
    )
    from react_pipeline.extensions.review.improve import improve as try_changes

    project = load_project(config)
    names = project.domain(domain).class_names
    improvement = try_changes(
        Trial(project, domain), tries, lambda changes: tqdm(changes, disable=None)
    )
    _print_tries(improvement, names)
    if improvement.own is None or improvement.of_controls is None:
        console.print("no change gained more than its control on the first half of the pairs")
        return
    console.print(
        f"all {sum(one.is_chosen for one in improvement.tries)} chosen ones together, on the other "
        f"half: {_gain(improvement.own)}, p {improvement.own.p_value:.3g}; their controls: "
        f"{_gain(improvement.of_controls)}, p {improvement.of_controls.p_value:.3g}"
    )
    if not improvement.changes:
        console.print(f"that is not beyond noise (p at most {LEVEL:g}, and more than the controls)")
        return
    console.print(diff_of(project, domain, improvement.changes), end="")
    for pair in rejections_of(project, domain, improvement.changes):
        console.print(f"reject {pair.image[:12]} of {pair.label}: {pair.caption}")
    if not write:
        console.print("nothing was written; add --write to accept it")
        return
    write_changes(project, domain, improvement.changes)
    console.print(f"written; next: {materialize_command(SET_AND_AFTER, domain)}")


def _print_tries(improvement: Improvement, names: Sequence[str]) -> None:
    rows = []
    for one in improvement.tries:
        change = one.change
        what = f"synonym {change.synonym}" if change.synonym else f"reject {len(change.rejected)}"
        chosen = "yes" if one.is_chosen else "no"
        rows.append([names[change.class_id], what, _gain(one.own), _gain(one.of_control), chosen])
    print_table(["class", "change", "held-out pairs", "control", "chosen"], rows, right=4)


def _gain(comparison: Comparison) -> str:
    return f"+{comparison.gained} -{comparison.lost} of {comparison.pairs}"


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
