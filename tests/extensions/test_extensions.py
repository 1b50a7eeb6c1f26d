"""Extensions of other packages, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.drawings import draw, encode
from support.rooms import LIBRARY

LOOK = """
import sys
from react_pipeline.commands.cli import main
from react_pipeline.extensions.plan.diagnosis import _extensions
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.settings import corpus_kinds
from react_pipeline.stage import STAGES

print("kinds", *corpus_kinds(), "stages", *STAGES)
try:
    main(["init", ".", "--corpus", "named-photos"])
except SystemExit as ended:
    print("exit", ended.code)
with open("pipeline.yaml", "r+") as file:
    text = file.read().replace('photos: "data/*"', "photos: photos/*.png")
    file.seek(0)
    file.write(text)
project = Project.load()
corpus = run(project, "corpus", "all")
print("counts", corpus.counts)
for finding in _extensions():
    print(finding.what, finding.state, finding.detail)
"""


def python(
    program: str, *, path: Path, folder: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a program that searches `path` first for the library."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    environment.pop("REACT_PIPELINE_CONFIG", None)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Path]:
    """Install a distribution with these extensions in a folder; returns a search path."""

    def install(**points: str) -> Path:
        place = tmp_path / "site"
        metadata = place / "others-1.0.dist-info"
        metadata.mkdir(parents=True)
        page = (LIBRARY.parent / "docs" / "extensions.md").read_text()
        (place / "named_photos.py").write_text(page.split("```python\n")[1].split("```")[0])
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        group = "[react_pipeline.extensions]\n" + "\n".join(lines)
        (metadata / "entry_points.txt").write_text(group + "\n")
        return Path(os.pathsep.join([str(LIBRARY.parent), str(place)]))

    return install


def test_an_extension_of_another_package_is_used(site: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, colour in (("a red circle", "red"), ("a blue circle", "blue")):
        (tmp_path / "photos" / f"{name}.png").write_bytes(encode(draw("circle", colour, 0)))
    out = python(LOOK, path=site(photos="named_photos:Photos"), folder=tmp_path).stdout
    kinds = "webdataset demo named-photos images embeddings urls"
    assert f"kinds {kinds} stages corpus" in out
    assert "exit 0" in out and "'pairs': 2" in out
    (listed,) = (line for line in out.splitlines() if line.startswith("extensions ok "))
    names = listed.partition(": ")[2].split(", ")
    assert "photos" in names and "demo" not in names


@pytest.mark.parametrize("command", ["doctor", "--help"])
def test_a_broken_extension_is_named_and_ends_the_command(
    command: str, site: Callable[..., Path], tmp_path: Path
) -> None:
    path = site(absent="no_such_module:Extension")
    code = f"import sys; sys.argv[1:] = [{command!r}]\nfrom react_pipeline.__main__ import main; main()"
    done = python(code, path=path, folder=tmp_path, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: extension absent: ModuleNotFoundError")
