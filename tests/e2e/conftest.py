"""Fixtures of whole ways through the package: what is built from the sources, and an environment with the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    # Of a copy: setuptools also packs what an earlier build here has listed.
    leftovers = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "storage", "history", "schedules")
    sources = shutil.copytree(REPOSITORY, folder / "sources", symlinks=True, ignore=leftovers)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(sources)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def installed(built: Path) -> Path:
    """A fresh environment with the wheel; its dependencies are those of the environment that runs the tests."""
    folder = built / "environment"
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Links among these folders, such as an editable installation's, are not followed from here.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    return folder
