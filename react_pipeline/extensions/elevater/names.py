"""Matching the class names of files on disk with the table's, by name.

A position never decides which class a label means.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from react_pipeline.extensions.protocols import read_form
from react_pipeline.installation import installed_file
from react_pipeline.labelled import Unavailable, lines_of, normal
from react_pipeline.store import InputError

from .datasets import IMAGENET, Dataset, read_data

OVERRIDES = "class_names.json"
"""A user's own file at the root: {data set: {name on disk: name in the table}}."""


def join_names(entry: Dataset, names: Sequence[str], where: Path, root: Path) -> NDArray[np.int64]:
    """Return the table's class id of each name on disk. Case, spaces, underscores and hyphens do
    not matter.

    A class is known by its first name, its aliases, the names of the original data set
    (`data/other_names.json`; for ImageNet the WordNet ids), and those of the user's own
    `class_names.json` at the root. ImageNet has two names twice; these are taken in their order.

    Args:
        names: On disk, in the order of label ids there.
        where: The file or folder that holds them, for messages.
        root: Where `class_names.json` is looked for.

    Returns:
        Ids (C,), a permutation.

    Raises:
        InputError: If the number of classes differs or a name does not match, listing the names.
    """
    ids_by_name = _ids_by_name(entry, root)
    ids = []
    problems = []
    if len(names) != entry.num_classes:
        problems.append(f"{len(names)} classes, {entry.name} has {entry.num_classes}")
    for name in names:
        candidates = ids_by_name.get(normal(name))
        if candidates is None:
            problems.append(f"{name!r}: no class of {entry.name} has this name")
        elif not candidates:
            problems.append(f"{name!r}: names a class that another name already names")
        else:
            ids.append(candidates.pop(0))
    if problems:
        unused = [
            entry.class_names[number] for number in range(entry.num_classes) if number not in ids
        ]
        raise InputError(
            f"{where}: classes cannot be joined by name\n{lines_of(problems)}\nclasses left over: "
            f"{', '.join(map(repr, unused[:250])) or 'none'}\nrename them, or say what they mean "
            "in "
            f'{root / OVERRIDES}: {{"{entry.name}": {{"name on disk": "name in the table"}}}}'
        )
    return np.array(ids, np.int64)


def _ids_by_name(entry: Dataset, root: Path) -> dict[str, list[int]]:
    # Names of one class share one list, so that a class with two names is detected.
    ids_by_name: dict[str, list[int]] = {}
    for class_id, names in enumerate(entry.aliases):
        ids_by_name.setdefault(normal(names[0]), []).append(class_id)
    for names in entry.aliases:
        for alias in names[1:]:
            ids_by_name.setdefault(normal(alias), ids_by_name[normal(names[0])])
    for other, name in read_data("other_names.json").get(entry.name, {}).items():
        ids_by_name.setdefault(normal(other), ids_by_name[normal(name)])
    if entry.name == IMAGENET.name:
        ids = installed_file("timm", "data", "_info", "imagenet_synsets.txt")
        lines = ids.read_text(encoding="utf-8").split() if ids else []
        ids_by_name.update({wordnet_id: [class_id] for class_id, wordnet_id in enumerate(lines)})
    for other, name in _overrides(root).get(entry.name, {}).items():
        if normal(name) not in ids_by_name:
            raise InputError(
                f"{root / OVERRIDES}: {entry.name}.{other}: {entry.name} has no class {name!r}"
            )
        ids_by_name[normal(other)] = ids_by_name[normal(name)]
    return ids_by_name


def _overrides(root: Path) -> dict[str, dict[str, str]]:
    try:
        form = '{"data set": {"name on disk": "name in the table"}}'
        names: dict[str, dict[str, str]] = read_form(
            root / OVERRIDES, dict[str, dict[str, str]], form
        )
    except Unavailable:
        return {}
    return names
