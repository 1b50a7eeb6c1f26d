"""The command `react-pipeline domains names`, and notes of `domains validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import (
    Config,
    Domain,
    console,
    load_project,
    materialize_command,
    print_table,
)
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import Place, edited_yaml, read_yaml
from react_pipeline.stage import ALL
from react_pipeline.store import Problem, write_atomically

_MOST_COUNTED = 10_000_000
"""Captions that `domains validate` reads, of all domains together: half a minute."""


def unnamed_notes(project: Project, slugs: Sequence[str]) -> Iterator[str]:
    """Yield warnings of classes that no caption names, if the corpus is embedded and small."""
    embeddings = fresh_or_none(project, "corpus_embeddings", ALL)
    if embeddings is None:
        return
    from react_pipeline.extensions.names.name_counts import domain_names
    from react_pipeline.extensions.names.unnamed import unnamed_classes, unnamed_message

    if (amount := len(slugs) * int(embeddings.counts["rows"])) > _MOST_COUNTED:
        yield (
            f"names were not looked for in {amount:,} captions; see `react-pipeline domains names "
            "DOMAIN`"
        )
        return
    for slug in slugs:
        unnamed = unnamed_classes(domain_names(project, slug), embeddings)
        if unnamed:
            path = project.config.domains / f"{slug}.yaml"
            message = unnamed_message(list(unnamed), list(unnamed.values()))
            yield f"warning: {Problem(path, 'classes', message)}"


def list_names(
    domain: Domain,
    write: Annotated[
        bool, typer.Option("--write", help="Put the most frequent name of each class first.")
    ] = False,
    config: Config = None,
) -> None:
    """Count the captions that contain each name of a domain, and show the most frequent name of
    each class.
    """
    project = load_project(config, [domain])
    from react_pipeline.extensions.names.name_counts import domain_names

    counts = domain_names(project, domain)
    first = project.domain(domain).prompt_names
    # Of equally frequent names the first one of the file.
    best = counts.loc[counts.groupby("class_id")["captions"].idxmax(), "name"]
    others = {number: name for number, name in enumerate(best) if name != first[number]}
    print_table(
        ["class", "name", "captions"], counts[["class", "name", "captions"]].to_numpy().tolist()
    )
    for number, name in others.items():
        console.print(f"{first[number]}: {name} is more frequent")
    if others and write:
        put_first(project.config.domains / f"{domain}.yaml", others)
        console.print(f"these are first now; next: {materialize_command(domain=domain)}")
    elif others:
        console.print("--write puts these first")


def put_first(path: Path, names: Mapping[int, str]) -> None:
    """Swap the names of classes (class id -> a synonym of it); all else in the domain file stays as
    it is written.

    Raises:
        InputError: If the text of a name cannot be swapped alone; then nothing is written.
    """
    document = read_yaml(path)
    texts: dict[Place, str] = {}
    for number, name in names.items():
        entry = document.fields["classes"][number]
        place = entry["synonyms"].index(name)
        texts["classes", number, "name"] = name
        texts["classes", number, "synonyms", place] = entry["name"]
    write_atomically(path, edited_yaml(document, texts))
