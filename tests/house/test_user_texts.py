"""What a user of the wheel reads points to nothing that only a clone has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import react_pipeline

ROOT = Path(react_pipeline.__file__).parent
MAKEFILE = (ROOT.parent / "Makefile").read_text(encoding="utf-8")
TARGETS = "|".join(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
OF_A_CLONE = re.compile(
    rf"\b(docs|production|recipes|benchmarks|tests)/|CONTRIBUTING|\bmake ({TARGETS})\b"
)


def strings(path: Path) -> list[str]:
    """The texts of a module that it can show: all but docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in silent]
    return [node.value for node in texts if isinstance(node.value, str)]


def test_no_text_of_the_package_names_what_a_wheel_lacks() -> None:
    modules = [*ROOT.rglob("*.py"), *(ROOT / "assets").glob("*.py")]
    files = [path for path in ROOT.rglob("*") if path.suffix in (".yaml", ".md", ".html")]
    assert len(modules) > 150 and len(files) > 8
    texts = [(path, text) for path in modules for text in strings(path)]
    texts += [(path, path.read_text(encoding="utf-8")) for path in files]
    assert not [f"{path}: {text}" for path, text in texts if OF_A_CLONE.search(text)]
