"""The rooms of the house, measured from the source; `docs/stages.py` shows them with their floors.

A room is a package of `react_pipeline` or a module beside them. A room is on the floor above all
that it imports. Imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).parents[2] / "react_pipeline"
ASSETS = LIBRARY / "assets"
"""In a clone a link to the folder `assets`; in the distributions a package like any other."""
EXTENSIONS = LIBRARY / "extensions"
PACKAGE = "react_pipeline"
ALL_EXTENSIONS = f"{PACKAGE}.{EXTENSIONS.name}"


class Import(NamedTuple):
    """A module or a room of the library that a file takes a name from.

    Attributes:
        for_types: Whether only type checkers see it.
        is_at_top: Whether it is imported with its file.
    """

    path: Path
    module: str
    for_types: bool
    is_at_top: bool

    @property
    def room(self) -> str:
        return room_of_parts(self.module.split(".")[1:])


def modules_of_library() -> list[Path]:
    """All modules but the doors."""
    paths = (path for path in LIBRARY.rglob("*.py") if not path.is_relative_to(ASSETS))
    return sorted(path for path in paths if path.name not in ("__init__.py", "__main__.py"))


def room_of(path: Path) -> str:
    """The room of a file; each extension is one."""
    return room_of_parts(path.relative_to(LIBRARY).with_suffix("").parts)


def room_of_parts(parts: Sequence[str]) -> str:
    return ".".join(parts[:2] if parts[0] == EXTENSIONS.name else parts[:1])


@functools.cache
def imports_of(path: Path) -> list[Import]:
    """What a file takes from the library."""
    tree = ast.parse(path.read_text())
    guarded = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    for_types = {child for node in guarded for child in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        # A module of an extension, from another one of it.
        inside = path.parent.relative_to(LIBRARY.parent).parts if node.level == 1 else ()
        module = ".".join(filter(None, [*inside, node.module]))
        names = [module]
        if module in (PACKAGE, ALL_EXTENSIONS):  # a room as a whole
            names = [f"{module}.{alias.name}" for alias in node.names]
            names = [name for name in names if (LIBRARY.parent / name.replace(".", "/")).is_dir()]
        found += [
            Import(path, name, node in for_types, node in tree.body)
            for name in names
            if name.startswith(f"{PACKAGE}.")
        ]
    return found


def arrows() -> dict[str, set[str]]:
    """The rooms of the core that each of them imports."""
    found: dict[str, set[str]] = {}
    for path in [*modules_of_library(), *ASSETS.glob("*.py")]:
        room = room_of(path)
        if not path.is_relative_to(EXTENSIONS):
            used = {one.room for one in imports_of(path) if not one.for_types}
            core = {other for other in used - {room} if not other.startswith(EXTENSIONS.name + ".")}
            found.setdefault(room, set()).update(core)
    return found


def floors(used: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room, from 1; graphlib's CycleError names a circle."""
    floor: dict[str, int] = {}
    for room in TopologicalSorter(used).static_order():
        floor[room] = 1 + max((floor[other] for other in used.get(room, ())), default=0)
    return floor
