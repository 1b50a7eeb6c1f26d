"""The command `react-pipeline advise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.commands import (
    Config,
    Domain,
    console,
    load_project,
    materialize_command,
    print_table,
)
from react_pipeline.lineage import fresh
from react_pipeline.project import Manifests
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import CONTROL_SET, RETRIEVED_SET

if TYPE_CHECKING:
    import pandas as pd

LISTED = 10
"""Classes that are listed."""


def advise(domain: Domain, config: Config = None) -> None:
    """Say before anything is trained which classes the corpus lacks, what `gda` gains on held-out
    pairs beside its control, and what to run next.

    The retrieved set of the domain and its control must be materialized.
    """
    project = load_project(config, [domain])
    look = Manifests.of(project)  # before anything large is loaded
    for stage in (RETRIEVED_SET, CONTROL_SET):
        fresh(look, stage, domain)
    from react_pipeline.extensions.advise.signs import read_signs

    signs = read_signs(project, domain)
    _print_classes(signs.classes)
    tried = signs.tried
    own, control = (f"{100 * (one - tried.base):+.1f}" for one in (tried.own, tried.control))
    console.print(f"gda on held-out pairs: {own} points over the base; its control: {control}")
    settings = project.retrieval(domain)
    lacking = int((signs.classes["pairs"] < settings.min_per_class).sum())
    if lacking > settings.max_starving_fraction * len(signs.classes):
        console.print(
            f"next: add names or synonyms to {domain}.yaml; {lacking} classes have too few pairs, "
            "and no method trains on so few"
        )
    elif tried.own <= max(tried.base, tried.control):
        console.print(
            f"next: add names to {domain}.yaml, or use another corpus; gda gains no more than its "
            "control"
        )
    else:
        methods = f"--method base --method gda --method gda{CONTROL_SUFFIX}"
        console.print(f"next: {materialize_command(domain=domain)} {methods}")


def _print_classes(classes: pd.DataFrame) -> None:
    unnamed = classes[~classes["named"]]
    console.print(
        f"{len(classes):,} classes, {classes['pairs'].sum():,} pairs; classes without a pair: "
        f"{(classes['pairs'] == 0).sum():,}; classes that no caption names: {len(unnamed):,}"
    )
    if unnamed.empty:
        return
    rows = unnamed.head(LISTED)[["class", "pairs", "near"]].to_numpy().tolist()
    print_table(["not named", "pairs", "similar name"], rows)
    console.print("add a synonym that captions use: it finds better pairs")
