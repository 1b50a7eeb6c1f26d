"""`gated_blocks.py`: one module that makes open_clip load gated blocks where this package is not
installed, generated from the code that this package runs.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from types import ModuleType

from react_pipeline import __version__
from react_pipeline.clip import cast_matrices, register_gated_blocks

GATED_FILE = "gated_blocks.py"
_ROOT = register_gated_blocks.__name__
_HEAD = f'''"""Gated blocks of REACT (arXiv 2301.07094) for open_clip: import this module before you load the
model. Generated from react_pipeline {__version__}; Apache-2.0.
"""'''


def gated_module() -> str:
    """The source of a module that needs torch and open_clip alone: `register_gated_blocks`, what
    it uses, and a call of it.
    """
    # Modules of one room, found by a function of each that the room exports.
    parts = map(inspect.getmodule, (cast_matrices, register_gated_blocks))
    statements = {"InputError": ast.parse("InputError = ValueError").body[0]}
    for part in parts:
        assert isinstance(part, ModuleType)  # noqa: S101 - of a function that was imported
        statements |= _statements(part)
    used = [statements[name] for name in statements if name in _used(statements)]
    imports = [one for one in used if isinstance(one, ast.Import | ast.ImportFrom)]
    rest = [one for one in used if one not in imports]
    lines = "\n".join(map(ast.unparse, imports))
    return "\n\n\n".join([f"{_HEAD}\n\n{lines}", *map(ast.unparse, rest), f"{_ROOT}()"]) + "\n"


def _statements(module: ModuleType) -> dict[str, ast.stmt]:
    """Each top-level statement of a module by the name that it binds; not what it imports from this
    package.
    """
    statements: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            statements[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            statements[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            statements[node.target.id] = node
        elif isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                statements[bound] = ast.Import([alias])
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("react_pipeline"):
            for alias in node.names:
                statements[alias.name] = ast.ImportFrom(node.module, [alias], 0)
    return statements


def _used(statements: Mapping[str, ast.stmt]) -> set[str]:
    """The names that `register_gated_blocks` needs, its own among them."""
    used: set[str] = set()
    new = {_ROOT}
    while new:
        used |= new
        nodes = (node for name in new for node in ast.walk(statements[name]))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        new = names & statements.keys() - used
    return used
