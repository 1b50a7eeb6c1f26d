"""The example package: installed, it is seen by Dagster, the command line, MLflow and `status`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.drawings import COLOURS, SHAPES, draw, encode
from support.rooms import LIBRARY

from react_pipeline.project.project import Project

EXAMPLE = LIBRARY.parent / "examples" / "my_extension"
USE = """
import shutil
import dagster as dg
from react_pipeline.assets.definitions import defs
from react_pipeline.commands.cli import main
from react_pipeline.project import Project
from react_pipeline.tracking import Tracking

def command(*arguments):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code

command("materialize", "--domain", "shapes")
print("PART")
graph = defs.resolve_asset_graph()
node = graph.get(dg.AssetKey("caption_count"))
print("asset", node.description, sorted(key.path[-1] for key in node.parent_keys))
methods = graph.get(dg.AssetKey("customized_checkpoint")).partitions_def
print("partitions", [d.partitions_def for d in methods.partitions_defs if d.name == "method"])
project = Project.load()
logged = Tracking(project).sync()
for stage, key in (("caption_count", "shapes"), ("customized_checkpoint", "shapes/class-means")):
    artifact = project.store.current(stage, key)
    print("logged", stage, artifact.fingerprint in logged, dict(artifact.counts).get("captions"))
shutil.rmtree(project.store.root / "caption_count")
print("PART")
command("status")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has the example package installed."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(source)], check=True)
    path = os.pathsep.join([str(site), str(LIBRARY.parent)])
    home = tmp_path / "home"
    home.mkdir()
    return {**os.environ, "PYTHONPATH": path, "DAGSTER_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.operations
def test_the_example_is_used_from_the_corpus_to_mlflow(
    tiny_project: Project, environment: dict[str, str], mlflow_database: Path, tmp_path: Path
) -> None:
    shutil.copy(mlflow_database, tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for shape in SHAPES:
        for colour in COLOURS:
            for seed in range(2):
                name = f"a {colour} {shape} {seed}.png"
                (photos / name).write_bytes(encode(draw(shape, colour, seed)))
    fields: dict[str, Any] = yaml.safe_load(tiny_project.path.read_text())
    fields["corpus"] = {"kind": "named-photos", "photos": [f"{photos}/*.png"]}
    fields["methods"] = ["base", "class-means"]
    tiny_project.path.write_text(yaml.safe_dump(fields))

    # One process, since to load torch and Dagster takes seconds.
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tiny_project.path.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, seen, status = done.stdout.split("PART")
    assert "asset how many different captions" in seen and "['retrieved_set']" in seen
    assert "class-means-control" not in seen and "class-means" in seen
    assert "logged caption_count True" in seen
    assert "logged customized_checkpoint True" in seen
    assert "caption_count" in status
