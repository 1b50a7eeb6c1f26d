"""The command `react-pipeline domains names`: which name of a class captions use most, put first on request.

Belongs here: showing the counts, and swapping names in the text of a domain file. Does not belong here: counting
(`retrieval`). The name is swapped in the file, so that everything that reads it, from the zero-shot head to an exported
model, uses the same name, and the choice is seen and versioned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.terminal import print_table
from react_pipeline.settings import read_yaml
from react_pipeline.store import InputError, write_atomically


def names(
    domain: Annotated[str, typer.Argument(help="A domain.")],
    write: Annotated[
        bool, typer.Option("--write", help="Put the most frequent name first; the old one becomes a synonym.")
    ] = False,
    config: Config = None,
) -> None:
    """How many captions of the corpus say each name of a domain, and which name of a class they say most."""
    from react_pipeline.retrieval import domain_names, most_frequent

    project = load_project(config)
    counts = domain_names(project, domain)
    best = most_frequent(counts)
    rows = [
        [title, name, f"{captions:,}", "most frequent" if captions and name == best[class_id] else ""]
        for class_id, title, name, captions in counts.itertuples(index=False)
    ]
    print_table(["class", "name", "captions", ""], rows)
    first = project.domain(domain).class_names
    others = {class_id: name for class_id, name in best.items() if name != first[class_id]}
    if not others:
        console.print("no class has a synonym that more captions say than its name")
    elif not write:
        console.print(
            f"{len(others)} of {len(first)} classes have a synonym that more captions say; --write puts it first"
        )
    else:
        path = project.config.domains / f"{domain}.yaml"
        put_first(path, others)
        console.print(f"{path}: {len(others)} of {len(first)} classes renamed", markup=False, soft_wrap=True)
        console.print(f"what was made with the old names is stale: react-pipeline materialize --domain {domain}")


def put_first(path: Path, names: Mapping[int, str]) -> None:
    """Swap the names of some classes with one of their synonyms; all else in the domain file stays as it is written.

    Args:
        path: A valid domain file.
        names: Class id -> a synonym of it.

    Raises:
        ConfigError: If the file is no YAML mapping.
        InputError: If the text of a name cannot be swapped alone; then nothing is written.
    """
    raw, text = read_yaml(path), path.read_bytes().decode()
    edits: list[tuple[yaml.ScalarNode, str]] = []
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)  # its nodes know their places in the text
    (classes,) = (value for key, value in root.value if key.value == "classes")
    for class_id, name in names.items():
        entry, fields = raw["classes"][class_id], {key.value: node for key, node in classes.value[class_id].value}
        position = entry["synonyms"].index(name)
        edits += [(fields["name"], name), (fields["synonyms"].value[position], entry["name"])]
        entry["name"], entry["synonyms"][position] = name, entry["name"]
    for node, name in sorted(edits, key=lambda edit: -edit[0].start_mark.index):
        text = text[: node.start_mark.index] + _scalar(name) + text[node.end_mark.index :]
    try:
        written = yaml.safe_load(text)
    except yaml.YAMLError:
        written = None
    if written != raw:
        raise InputError(f"{path}: classes: names cannot be swapped in this text; swap them by hand")
    write_atomically(path, text)


def _scalar(text: str) -> str:
    # As an item of a list in brackets, which is valid wherever a name is.
    return yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=float("inf")).strip()[1:-1]
