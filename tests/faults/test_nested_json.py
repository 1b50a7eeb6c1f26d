"""FAULTS 55, 56, 58: JSON nested too deeply for the parser is as damaged as any other that cannot
be parsed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.clip.architecture import CONFIG_FILE, read_config
from react_pipeline.extensions.predict.run_folder import RUN_FILE, _record
from react_pipeline.project.dagster_home import LOCK_FILE, ui_record
from react_pipeline.store.errors import CorruptArtifact, InputError
from react_pipeline.use.classifier import RECORD_FILE, load_exported

ROOT = Path(__file__).parents[2]
NESTED = "[" * 100_000 + "\n"

READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "addresses": (LOCK_FILE, lambda path: ui_record(path.parent), {}),
    "record of predictions": (RUN_FILE, lambda path: _record(path.parent), {}),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_ours_counts_as_not_written(tmp_path: Path, name: str) -> None:
    file, read, nothing = READERS[name]
    (tmp_path / file).write_text(NESTED)
    assert read(tmp_path / file) == nothing


def test_an_export_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(NESTED)
    with pytest.raises(CorruptArtifact, match="export"):
        load_exported(tmp_path)


def test_numbers_that_no_type_holds_are_typed_errors(tmp_path: Path) -> None:
    towers = '"vision_cfg": {}, "text_cfg": {}'
    (tmp_path / CONFIG_FILE).write_text(
        f'{{"model_cfg": {{"embed_dim": 1e999, {towers}}}, "preprocess_cfg": {{}}}}'
    )
    with pytest.raises(InputError, match="open_clip"):
        read_config(tmp_path)


def parsers(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Line and caught errors of each place that parses JSON and expects it to be damaged."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = [handler.type for handler in node.handlers if handler.type is not None]
        elif isinstance(node, ast.With):
            calls = [
                item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)
            ]
            caught = [
                error
                for call in calls
                if ast.unparse(call.func).endswith("suppress")
                for error in call.args
            ]
        else:
            continue
        names = {
            name.id for error in caught for name in ast.walk(error) if isinstance(name, ast.Name)
        }
        if "ValueError" in names and "json.load" in "".join(map(ast.unparse, node.body)):
            yield node.lineno, names


def test_who_expects_damaged_json_expects_nested_json() -> None:
    paths = [
        path for folder in ("react_pipeline", "assets") for path in (ROOT / folder).rglob("*.py")
    ]
    found = [
        (path, *place)
        for path in paths
        for place in parsers(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(found) > 10
    wrong = [
        f"{path}:{line}"
        for path, line, names in found
        if not names & {"RecursionError", "RuntimeError"}
    ]
    assert not wrong
