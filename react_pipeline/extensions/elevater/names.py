"""Matching the class names of files on disk with the table's, by name.

A position never decides which class a label means, with one exception: an ELEVATER copy can be
taken in ELEVATER's order, if its labels have no names at all and that order is certain, or if the
user asserts it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from react_pipeline.installation import installed_file
from react_pipeline.labelled import lines_of, normal
from react_pipeline.store import InputError, read_json_bounded

from .datasets import IMAGENET, Dataset, read_data

OVERRIDES = "class_names.json"
"""A user's own file at the root: {data set: {name on disk: name in the table}}, or {data set:
"elevater-order"}.
"""
ELEVATERS_ORDER = "elevater-order"
"""What a user writes to assert the order of an ELEVATER copy with other names."""

_Overrides = dict[str, dict[str, str] | Literal["elevater-order"]]


def join_names(
    entry: Dataset,
    names: Sequence[str],
    where: Path,
    root: Path,
    *,
    in_elevaters_order: bool = False,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The table's class id of each name on disk. Case, spaces, underscores and hyphens do not
    matter.

    A class is known by its first name, its aliases, the names of the original data set
    (`data/other_names.json`; for ImageNet the WordNet ids), and those of the user's own
    `class_names.json` at the root. ImageNet has two names twice; these are taken in their order.

    Args:
        names: On disk, in the order of label ids there.
        root: Where `class_names.json` is looked for.
        in_elevaters_order: The files are ELEVATER's own, so numbers mean positions in its order.

    Returns:
        Ids (C,), a permutation; and what a user should know of the join.

    Raises:
        InputError: If the number of classes differs or a name does not match, listing the names.
    """
    own = _overrides(root).get(entry.name, {})
    if isinstance(own, str) and not in_elevaters_order:
        raise InputError(
            f"{root / OVERRIDES}: {entry.name}: {where} is not a copy of ELEVATER; give its names "
            "instead"
        )
    by_position = np.arange(entry.num_classes, dtype=np.int64)
    if isinstance(own, str) and len(names) == entry.num_classes:
        return by_position, (
            f"{where}: taken in the order of ELEVATER's own list, as {root / OVERRIDES} says",
        )
    ids_by_name = _ids_by_name(entry, {} if isinstance(own, str) else own, root)
    ids, problems = _joined(entry, names, ids_by_name)
    if len(names) != entry.num_classes:
        problems.insert(0, f"{len(names)} classes, {entry.name} has {entry.num_classes}")
    elif problems and list(names) == [str(number) for number in range(entry.num_classes)]:
        if in_elevaters_order and entry.order_is_elevaters:
            note = (
                f"{where}: labels have no names; they were taken in the order of ELEVATER's own "
                "list"
            )
            return by_position, (note,)
        problems = ["labels have no names, and their order is uncertain: name the classes"]
    if problems:
        unused = sorted(set(range(entry.num_classes)) - set(ids))
        hint = f', or {{"{entry.name}": "{ELEVATERS_ORDER}"}} if you are sure of it'
        raise InputError(
            _refusal(entry, where, root, problems, unused) + (hint if in_elevaters_order else "")
        )
    return np.array(ids, np.int64), ()


def _joined(
    entry: Dataset, names: Sequence[str], ids_by_name: dict[str, list[int]]
) -> tuple[list[int], list[str]]:
    """The class ids of names, and what is wrong with the others."""
    ids = []
    problems = []
    for name in names:
        candidates = ids_by_name.get(normal(name))
        if candidates is None:
            problems.append(f"{name!r}: no class of {entry.name} has this name")
        elif not candidates:
            problems.append(f"{name!r}: names a class that another name already names")
        else:
            ids.append(candidates.pop(0))
    return ids, problems


def _refusal(
    entry: Dataset, where: Path, root: Path, problems: Sequence[str], unused: Sequence[int]
) -> str:
    names = ", ".join(repr(entry.class_names[number]) for number in unused[:250])
    return (
        f"{where}: classes cannot be joined by name\n{lines_of(problems)}\nclasses left over: "
        f"{names or 'none'}\nrename them, or say what they mean in {root / OVERRIDES}: "
        f'{{"{entry.name}": {{"name on disk": "name in the table"}}}}'
    )


def _ids_by_name(entry: Dataset, own: dict[str, str], root: Path) -> dict[str, list[int]]:
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
    for other, name in own.items():
        if normal(name) not in ids_by_name:
            raise InputError(
                f"{root / OVERRIDES}: {entry.name}.{other}: {entry.name} has no class {name!r}"
            )
        ids_by_name[normal(other)] = ids_by_name[normal(name)]
    return ids_by_name


def _overrides(root: Path) -> _Overrides:
    path = root / OVERRIDES
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(_Overrides).validate_python(read_json_bounded(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f'{path}: must be {{"data set": {{"name on disk": "name in the table"}}}}, or '
            f'"{ELEVATERS_ORDER}" '
            f"in place of the names ({error})"
        ) from error
