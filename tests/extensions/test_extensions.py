"""Extensions come and go: the core works without any, and a broken one stops nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.drawings import draw, encode
from support.rooms import LIBRARY

from react_pipeline.project.project import Project

LINEAGE = """
import sys
# An editable installation would find the modules that are not in the copy.
sys.meta_path[:] = [one for one in sys.meta_path if "Editable" not in str(one)]
from react_pipeline.extension import broken_extensions
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.stage import STAGES

project = Project.load(sys.argv[1])
for name, row in STAGES.items():
    for key in row.keys(["shapes"], ["base", "gated-image"]):
        artifact = run(project, name, key)
        print(name, key, artifact.counts.get("top1"), artifact.counts.get("decision"))
    if name == "promotion":
        break
for name, reason in broken_extensions().items():
    print(name, "is left out:", reason)
"""
LOOK = """
import sys
from react_pipeline.commands.cli import main
from react_pipeline.extensions.doctor.diagnosis import _extensions
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.settings import corpus_kinds, encoders
from react_pipeline.stage import STAGES

print("kinds", *corpus_kinds(), "encoders", *encoders(), "stages", *STAGES)
try:
    main(["init", ".", "--corpus", "named-photos"])
except SystemExit as ended:
    print("exit", ended.code)
with open("pipeline.yaml", "r+") as file:
    text = file.read().replace('photos: ["data/*"]', "photos: photos/*.png")
    file.seek(0)
    file.write(text)
project = Project.load()
corpus = run(project, "corpus", "all")
print("counts", corpus.counts)
for finding in _extensions():
    print(finding.what, finding.state, finding.detail)
"""
BROKEN = {
    "absent": "no_such_module:Extension",
    "strange": "json:JSONDecoder",
    "taken": "broken_extensions:Taken",
    "raising": "broken_extensions:Raising",
}
BROKEN_MODULE = """
from react_pipeline.extension import Extension
from react_pipeline.corpus import Webdataset

class Taken(Extension):
    def corpus_kinds(self):
        return (Webdataset,)

class Raising(Extension):
    def encoders(self):
        return 1 / 0
    def stages(self):
        return 1 / 0
"""


def python(code: str, *arguments: object, path: Path, folder: Path) -> tuple[str, str]:
    """Output and errors of a program that finds the library in `path` first."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    environment.pop("REACT_PIPELINE_CONFIG", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.operations
def test_the_core_builds_up_to_a_verdict_without_any_extension(
    indexed_project: Project, tmp_path: Path
) -> None:
    copy = tmp_path / "without"
    leave = shutil.ignore_patterns("extensions", "assets", "__pycache__")
    shutil.copytree(LIBRARY, copy / "react_pipeline", ignore=leave)
    out, errors = python(LINEAGE, indexed_project.path, path=copy, folder=tmp_path)
    assert "domain_results shapes/gated-image 0." in out
    assert "promotion shapes 0." in out
    for name in (
        "demo",
        "dense",
        "elevater",
        "judging",
        "methods",
        "ready",
        "urls",
        "web",
    ):
        assert f"the extension {name} is left out" in errors
        assert f"{name} is left out: ModuleNotFoundError" in out


def test_a_broken_extension_is_named_and_left_out(tmp_path: Path) -> None:
    place = tmp_path / "site"
    metadata = place / "others-1.0.dist-info"
    metadata.mkdir(parents=True)
    page = (LIBRARY.parent / "docs" / "extensions.md").read_text()
    (place / "named_photos.py").write_text(page.split("```python\n")[1].split("```")[0])
    (tmp_path / "photos").mkdir()
    for name, colour in (("a red circle", "red"), ("a blue circle", "blue")):
        (tmp_path / "photos" / f"{name}.png").write_bytes(encode(draw("circle", colour, 0)))
    (place / "broken_extensions.py").write_text(BROKEN_MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    points = {"photos": "named_photos:Photos", **BROKEN}
    lines = [f"{name} = {value}" for name, value in points.items()]
    group = "[react_pipeline.extensions]\n" + "\n".join(lines)
    (metadata / "entry_points.txt").write_text(group + "\n")
    path = Path(os.pathsep.join([str(LIBRARY.parent), str(place)]))
    out, errors = python(LOOK, path=path, folder=tmp_path)
    first = out.splitlines()[0]
    kinds = "webdataset demo images named-photos embeddings urls"
    assert f"kinds {kinds} encoders demo stages corpus" in first
    assert "dense_results" in first and "benchmark_results" in first
    assert "exit 0" in out and "'pairs': 2" in out
    (listed,) = (line for line in out.splitlines() if line.startswith("extensions ok "))
    names = listed.partition(": ")[2].split(", ")
    assert "photos" in names and "demo" not in names
    for name in BROKEN:
        assert f"the extension {name} is left out" in errors
        assert f"extension note {name} is left out" in out
