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


def roots(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


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


def test_assets_keep_their_annotations_as_objects() -> None:
    # Dagster's config reads annotations at run time and refuses strings.
    line = "from __future__ import annotations"
    assert not [name_of(path) for path in ASSET_MODULES if line in path.read_text()]


@pytest.mark.parametrize("module", ["react_pipeline", "react_pipeline.assets.definitions"])
def test_importing_the_front_doors_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=LIBRARY.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
