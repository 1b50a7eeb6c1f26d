"""What is built from the sources: a wheel that works where there is no clone, and a complete source
distribution.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest
from support.customized import customized
from support.drawings import draw, encode

from react_pipeline.extensions.hub.export import export
from react_pipeline.project.project import Project

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_distributions_hold_licence_docs_and_the_demo_project(built: Path) -> None:
    (source,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(source) as archive:
        assert not any(member.issym() for member in archive.getmembers())
        found = {member.name.partition("/")[2] for member in archive.getmembers()}
    assert {
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "CITATION.cff",
        "constraints.txt",
        "mkdocs.yml",
    } <= found
    assert {
        "docs/getting-started.md",
        "docs/images/demo.png",
        "dagster_home/production/compose.yaml",
    } <= found
    assert {"pipeline.yaml", "domains/objects.yaml", "tests/conftest.py"} <= found
    with zipfile.ZipFile(wheel) as archive:
        for name in ("pipeline.yaml", "domains/objects.yaml"):
            assert (
                archive.read(f"react_pipeline/extensions/demo/files/{name}")
                == (REPOSITORY / name).read_bytes()
            )
        settings = archive.read("react_pipeline/project/files/dagster.yaml")
        assert settings == (REPOSITORY / "dagster_home" / "dagster.yaml").read_bytes()
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {
        "licenses/LICENSE",
        "licenses/NOTICE",
        "py.typed",
        "extensions/elevater/data/datasets.json",
    } <= names
    assert {
        "assets/definitions.py",
        "templates/style.css",
        "project/templates/pipeline.yaml",
        "extensions/demo/__init__.pyi",
    } <= names


def test_the_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DAGSTER_HOME", "PYTHONPATH", "REACT_PIPELINE_CONFIG")
    }

    def run(*arguments: str) -> str:
        command = [str(installed / "bin" / arguments[0]), *arguments[1:]]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def installed_files() -> set[Path]:
        return {path for path in installed.rglob("*") if "__pycache__" not in path.parts}

    before = installed_files()
    # The user's own module `assets` is not shadowed, and the code location loads beside it.
    assert (
        run("python", "-c", "import importlib.util as u; print(u.find_spec('assets'))").strip()
        == "None"
    )
    (tmp_path / "assets.py").write_text("mine = 1")
    load = (
        "import assets, react_pipeline.assets.definitions as ours; print(assets.mine, "
        "ours.__file__)"
    )
    assert str(installed) in run("python", "-c", load)
    (tmp_path / "assets.py").unlink()
    # The fresh environment has the packages of another one, and not their scripts.
    dg = "import sys, dagster_dg_cli.cli as dg; sys.argv[0] = 'dg'; dg.main()"
    assert "ReactProjectComponent" in run("python", "-c", dg, "list", "components", "--json")
    run("react-pipeline", "init", ".", "--corpus", "demo", "--dg")
    assert "loaded successfully" in run("python", "-c", dg, "check", "defs")
    select = ["--select", "evaluation_set", "--domain", "objects"]
    assert "1 built" in run("react-pipeline", "materialize", *select)
    assert (tmp_path / "dagster_home" / "dagster.yaml").is_file()
    assert installed_files() == before


def test_a_gated_export_predicts_in_a_light_installation(
    built: Path, retrieved_project: Project, tmp_path: Path
) -> None:
    """Downloads what the wheel without extras brings; prints its size and seconds, which
    docs/predict.md states.
    """
    customized(retrieved_project, "gated-image")
    exported = export(retrieved_project, "shapes", "gated-image", tmp_path / "exported")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(encode(draw("circle", "red", 1)))
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    (wheel,) = built.glob("*.whl")
    began = time.monotonic()
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        str(REPOSITORY / "constraints.txt"),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    seconds = time.monotonic() - began
    listed = subprocess.run(
        [*pip[:3], "list", "--format", "freeze"], check=True, capture_output=True, text=True
    ).stdout
    heavy = {
        "dagster",
        "mlflow",
        "faiss-cpu",
        "clip-retrieval",
        "obstore",
        "pandas",
        "onnxruntime",
    }
    assert not heavy & {line.partition("==")[0].lower() for line in listed.splitlines()}
    command = [str(folder / "bin" / "react-pipeline"), "predict", str(exported), str(pictures)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "circle" in (tmp_path / "predictions" / "predictions.csv").read_text()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"light installation: {size / 1e9:.1f} GB, {seconds:.0f} s")
