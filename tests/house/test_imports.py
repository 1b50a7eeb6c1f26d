"""The guard of the house: which room may import which. Imports are read from the source, those
inside functions too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.rooms import (
    ASSETS,
    EXTENSIONS,
    LIBRARY,
    arrows,
    floors,
    imports_of,
    modules_of_library,
    room_of,
)

MODULES = modules_of_library()
CORE_MODULES = [path for path in MODULES if not path.is_relative_to(EXTENSIONS)]
ASSET_MODULES = sorted(ASSETS.glob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(LIBRARY.parent))


def imported(path: Path) -> set[str]:
    """The modules that a file imports; what it takes from one counts as a module too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def test_the_core_imports_extensions_where_it_uses_them() -> None:
    """At the top of a module they would load with the core, and some imports would be circular."""
    assert not [
        one
        for path in CORE_MODULES
        for one in imports_of(path)
        if one.room.startswith("extensions.") and one.is_at_top and not one.for_types
    ]


def test_no_import_runs_back_up() -> None:
    assert floors(arrows())  # else graphlib names a circle


def test_nothing_is_imported_by_a_string() -> None:
    files = [*CORE_MODULES, *ASSET_MODULES]
    assert not [name_of(path) for path in files if "import_module" in path.read_text()]


def test_no_module_reaches_past_a_door() -> None:
    assert not [
        one
        for path in [*MODULES, *ASSET_MODULES]
        for one in imports_of(path)
        if one.room != room_of(path) and one.module != f"react_pipeline.{one.room}"
    ]


def test_library_imports_no_dagster_and_only_tracking_mlflow() -> None:
    for path in MODULES:
        names = roots(path)
        for_dagster = path.is_relative_to(EXTENSIONS) and "assets" in (path.stem, path.parent.name)
        dagster = {name for name in names if name.startswith("dagster")}
        assert for_dagster or not dagster, name_of(path)
        assert room_of(path) == "tracking" or "mlflow" not in names, name_of(path)


CLIENTS = {"aiohttp", "http.client", "httpx", "requests", "urllib.request", "urllib3"}
USERS = {"plan/diagnosis.py", "ui/servers.py", "sources/image_client.py"}
"""Modules that import a client: of servers of ours under a deadline and a size, and of the HTTP
policy.
"""


def test_no_other_module_makes_requests() -> None:
    users = [path for path in MODULES if CLIENTS & (imported(path) | roots(path))]
    assert {str(path.relative_to(EXTENSIONS)) for path in users} == USERS


def test_assets_keep_their_annotations_as_objects() -> None:
    # Dagster's config reads annotations at run time and refuses strings.
    line = "from __future__ import annotations"
    assert not [name_of(path) for path in ASSET_MODULES if line in path.read_text()]


@pytest.mark.parametrize(
    ("module", "large"),
    [
        ("react_pipeline", "pydantic"),
        ("react_pipeline.commands.cli", "numpy"),
        ("react_pipeline.assets.definitions", "torch"),
    ],
)
def test_importing_the_front_doors_loads_nothing_large(module: str, large: str) -> None:
    code = f"import sys, {module}; sys.exit({large!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=LIBRARY.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
