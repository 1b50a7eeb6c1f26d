"""The guard of the house: what may import what. Imports are read from the source, those inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "react_pipeline"
ASSETS = LIBRARY.parent / "assets"

STEPS = (
    *("errors", "durable", "training_config", "evaluation_config", "corpus_config"),
    *(
        "embedding_config",
        "index_config",
        "retrieval_config",
        "automation_config",
        "promotion_config",
        "config",
        "config_files",
    ),
    *("artifacts",),
    *("store", "project", "lineage", "prompts"),
    *("images", "shards", "pairs", "corpus", "attention", "gated", "methods", "weights", "model", "base"),
    *("vectors", "inference"),
    *("embed", "index", "labels", "labelled", "collect", "duplicates", "ranking", "retrieve", "search"),
    *("observer", "distributed", "schedule", "losses", "tower", "augmentation", "training_data", "kept_tokens"),
    *("training_batches",),
    *("training_texts", "held_out", "interpolation", "guards", "resume", "training_step", "training_log"),
    *(
        "trainer",
        "classifier",
        "head_samples",
        "linear_head",
        "customize",
        "evaluate",
        "compare",
        "model_card",
        "export",
    ),
    *("tracked_values", "tracking_runs", "tracking", "tracking_live"),
    *("domain_files", "doctor", "servers", "terminal", "command_line", "commands_domains", "commands_elevater", "cli"),
)
"""Every module in the order in which data flows; none may import a later one."""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_every_module_has_its_place() -> None:
    assert {f"{step}.py" for step in STEPS} == {path.name for path in LIBRARY.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_library_never_imports_dagster(path: Path) -> None:
    assert not {name for name in roots(path) if name.startswith("dagster")}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_only_tracking_imports_mlflow_and_only_the_command_line_imports_assets(path: Path) -> None:
    if not path.name.startswith("track"):
        assert "mlflow" not in roots(path) or path.name == "doctor.py"
    if path.name != "cli.py" and not path.name.startswith("command"):
        assert "assets" not in roots(path)


@pytest.mark.parametrize("step", STEPS)
def test_no_step_imports_a_later_one(step: str) -> None:
    later = {f"react_pipeline.{name}" for name in STEPS[STEPS.index(step) + 1 :]}
    assert not imported(LIBRARY / f"{step}.py") & later


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.py")), ids=lambda path: path.name)
def test_assets_keep_their_annotations_as_objects(path: Path) -> None:
    # Dagster's config reads annotations at run time and refuses strings.
    assert "__future__.annotations" not in imported(path)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("react_pipeline", "torch"), ("react_pipeline.cli", "torch"), ("assets.definitions", "torch")],
)
def test_importing_the_front_doors_loads_no_torch(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=LIBRARY.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
