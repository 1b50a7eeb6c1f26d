"""The rooms of the house, measured from the source; `docs/stages.py` shows them with their floors.

A room is a package of `react_pipeline` or a module beside them. A room is on the floor above all
that it imports. Imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "react_pipeline"
ASSETS = LIBRARY / "assets"
"""In a clone a link to the folder `assets`; in the distributions a package like any other."""
EXTENSIONS = LIBRARY / "extensions"
PACKAGE = "react_pipeline"
ALL_EXTENSIONS = f"{PACKAGE}.{EXTENSIONS.name}"


@dataclass(frozen=True)
class Import:
    """One name that a file takes from the library.

    Attributes:
        path: The file.
        module: Where it takes the name from.
        name: The name.
        room: The room of the module.
        for_types: Whether only type checkers see it.
        is_at_top: Whether it is imported with its file.
    """

    path: Path
    module: str
    name: str
    room: str
    for_types: bool
    is_at_top: bool

    def __str__(self) -> str:
        """As a message names it."""
        return f"{self.path.parent.name}/{self.path.name} takes {self.name} from {self.module}"


def modules_of_library() -> list[Path]:
    """All modules but the doors."""
    paths = (path for path in LIBRARY.rglob("*.py") if not path.is_relative_to(ASSETS))
    return [path for path in paths if path.name not in ("__init__.py", "__main__.py")]


def room_of(path: Path) -> str:
    """The room of a file; each extension is one."""
    parts = path.relative_to(LIBRARY).parts
    if parts[0] == EXTENSIONS.name:
        return f"{parts[0]}.{parts[1]}"
    return parts[0].removesuffix(".py")


def room_of_module(module: str) -> str:
    """The room of a module of the library, by its name."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == EXTENSIONS.name else parts[0]


@functools.cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """What a file takes from the library, name by name."""
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text())
    guarded = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    for_types = {id(child) for node in guarded for child in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 1:  # a module of an extension, from another one of it
            parts = path.parent.relative_to(LIBRARY.parent).parts
            module = ".".join(filter(None, [*parts, module]))
        facts = id(node) in for_types, node in tree.body
        for alias in node.names:
            origin = module
            if module in (PACKAGE, ALL_EXTENSIONS):
                # A room as a whole: `from react_pipeline import clip`.
                origin = f"{module}.{alias.name}"
                if not (LIBRARY.parent / origin.replace(".", "/")).is_dir():
                    continue
            if origin.startswith(f"{PACKAGE}."):
                yield Import(path, origin, alias.name, room_of_module(origin), *facts)


def arrows() -> dict[str, set[str]]:
    """The rooms of the core that each of them imports."""
    found: dict[str, set[str]] = {}
    for path in [*modules_of_library(), *ASSETS.glob("*.py")]:
        if not path.is_relative_to(EXTENSIONS):
            used = {
                one.room
                for one in imports_of(path)
                if not one.for_types and not one.module.startswith(f"{ALL_EXTENSIONS}.")
            }
            found.setdefault(room_of(path), set()).update(used - {room_of(path)})
    return found


def floors(used: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room, from 1; graphlib's CycleError names a circle."""
    floor: dict[str, int] = {}
    for room in TopologicalSorter(used).static_order():
        floor[room] = 1 + max((floor[other] for other in used.get(room, ())), default=0)
    return floor
