"""The guard of the house: what may import what. Imports are read from the source, those inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "react_pipeline"
ASSETS = LIBRARY.parent / "assets"

ASIDE = ("demo", "elevater")
"""Packages of their own, whose modules are not steps of the pipeline."""

STEPS = (
    *("errors", "durable", "digests", "cross_site"),
    *("settings.training", "settings.evaluation"),
    *(
        "sources.shard_patterns",
        "sources.local_files",
    ),
    *("settings.corpus", "settings.embedding", "settings.index", "settings.retrieval", "settings.automation"),
    *("settings.promotion", "settings.distributor"),
    *("config", "config_files", "distributor", "artifacts", "store", "project"),
    *("retrieval.seed_files",),
    *("stages", "lineage"),
    *("retrieval.prompts",),
    *("modeling.attention", "modeling.gated", "modeling.methods", "modeling.trust", "modeling.weights"),
    *("modeling.text_tower",),
    *("modeling.architecture",),
    *("modeling.precision",),
    *("model", "base"),
    *("modeling.tower",),
    *("embedding.onnx_tower", "embedding.encoder"),
    *("sources.images", "sources.remote_store", "sources.remote", "sources.shards", "sources.pairs"),
    *("sources.inventory", "sources.web_access", "sources.download_process", "sources.download_journal"),
    *("sources.downloads", "sources.ready_layout"),
    *("sources.ready_embeddings", "embedding.parts", "vectors"),
    *("sources.url_tables", "sources.url_shards", "sources.url_corpus"),
    *("corpus",),
    *(
        "embedding.adopt",
        "embedding.seen_keys",
        "embedding.groups",
        "embedding.inference",
        "embedding.earlier_embeddings",
    ),
    *("embedding.records", "embedding.group_encoder", "embedding.spread"),
    *("embed",),
    *("indexing.keys", "indexing.vectors", "indexing.files", "indexing.recall", "indexing.growth"),
    *("indexing.spread", "indexing.build"),
    *("indexing.ready",),
    *("index",),
    *("retrieval.labels", "retrieval.labelled"),
    *("sources.image_source",),
    *("collect",),
    *("retrieval.duplicates", "retrieval.decontamination", "retrieval.seeds", "retrieval.fusion"),
    *("retrieval.candidates", "retrieval.near_duplicates", "retrieval.rendered_text", "retrieval.ranking"),
    *("retrieval.examination", "retrieval.chosen_pairs", "retrieval.class_report", "retrieval.control"),
    *("retrieve", "search", "corpus_service", "serve"),
    *("training.observer", "training.distributed", "training.schedule", "training.losses", "training.augmentation"),
    *("training.data", "training.kept_tokens", "training.batches", "training.texts", "training.held_out"),
    *("training.interpolation", "training.guards", "training.resume", "training.step", "training.log"),
    *("training.held_out_recall",),
    *("training.trainer", "training.classifier", "training.head_samples", "training.linear_head"),
    *("customize", "evaluate"),
    *("reports.intervals", "reports.tables", "reports.bars", "reports.findings", "reports.dashboard_examples"),
    *("reports.dashboard_figures", "reports.dashboard_style", "reports.dashboard"),
    *("compare", "overview", "report"),
    *("promotions.verdicts", "promotions.judgement", "promotions.evidence", "promotions.report"),
    *("promotions.verdict_chain",),
    *("promotion",),
    *("promotions.reevaluation",),
    *("reports.model_card",),
    *("export",),
    *("tracking.notes", "tracking.values", "tracking.results", "tracking.system", "tracking.runs", "tracking.log"),
    *("tracking.live", "tracking.versions", "tracking.registry"),
    *("manifests", "outside", "upkeep", "workload"),
    *("dagster_home",),
    *("commands.domain_files", "commands.doctor", "commands.process_groups", "commands.servers"),
    *("commands.terminal", "commands.command_line"),
    *("commands.domains", "commands.elevater", "commands.report", "commands.models", "commands.status"),
    *("cli",),
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
    found = {path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("*.py") if path.name != "__init__.py"}
    steps = {".".join(path.parts) for path in found if path.parts[0] not in ASIDE}
    assert set(STEPS) == steps
    assert len(set(STEPS)) == len(STEPS)


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_library_never_imports_dagster(path: Path) -> None:
    assert not {name for name in roots(path) if name.startswith("dagster")}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_only_tracking_imports_mlflow_and_only_the_command_line_imports_assets(path: Path) -> None:
    if path.parent.name != "tracking":
        assert "mlflow" not in roots(path) or path.name == "doctor.py"
    if path.name != "cli.py" and path.parent.name != "commands":
        assert "assets" not in roots(path)


@pytest.mark.parametrize("step", STEPS)
def test_no_step_imports_a_later_one(step: str) -> None:
    later = {f"react_pipeline.{name}" for name in STEPS[STEPS.index(step) + 1 :]}
    assert not imported(LIBRARY / f"{step.replace('.', '/')}.py") & later


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
