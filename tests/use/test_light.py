"""The light installation: an exported folder predicts with the packages of `dependencies` alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.customized import customized
from support.drawings import draw, encode

from react_pipeline.commands.command_line import missing_extra
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.predict.pictures import find_pictures
from react_pipeline.project.project import Project
from react_pipeline.use.classifier import Classifier

ROOT = Path(__file__).parents[2]
MODULES = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}

PREDICT = """
import builtins, sys
allowed = {*sys.stdlib_module_names, "react_pipeline", *sys.argv[1].split(",")}
given = builtins.__import__

def light(name, globals=None, locals=None, fromlist=(), level=0):
    top, importer = name.partition(".")[0], (globals or {}).get("__name__", "")
    if level == 0 and importer.startswith("react_pipeline") and top not in allowed:
        raise ModuleNotFoundError(f"no {top}, which {importer} imports", name=top)
    return given(name, globals, locals, fromlist, level)

builtins.__import__ = light
from react_pipeline.commands.cli import main
main(sys.argv[2:])
"""


def light_modules() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = (re.match(r"[A-Za-z0-9_-]+", entry) for entry in project["dependencies"])
    return {MODULES.get(name[0], name[0]) for name in names if name}


def light(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        PREDICT,
        ",".join(sorted(light_modules())),
        *map(str, arguments),
    ]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )


@pytest.mark.slow
@pytest.mark.operations
def test_doctor_needs_no_package_of_the_pipeline(tiny_project: Project) -> None:
    done = light("doctor", "--config", tiny_project.path, folder=tiny_project.path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "current artifacts" in done.stdout


@pytest.mark.slow
@pytest.mark.operations
def test_exported_gated_model_predicts_with_light_installation(
    retrieved_project: Project, tmp_path: Path
) -> None:
    customized(retrieved_project, "gated-image")
    folder = export(retrieved_project, "shapes", "gated-image", tmp_path / "exported")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(encode(draw("circle", "red", number)))
    place = tmp_path / "empty"
    place.mkdir()
    done = light("predict", folder, pictures, "--workers", 0, folder=place)
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "predictions" / "run.json").read_text())["used"] == 3
    exported = Classifier.load(folder, precision="fp32")
    of_project = Classifier.load(
        "shapes", "gated-image", config=retrieved_project.path, precision="fp32"
    )
    for one, other in zip(
        *(model.predict([pictures / "0.png"]) for model in (exported, of_project)), strict=True
    ):
        assert one.classes == other.classes and one.scores == pytest.approx(other.scores, abs=1e-6)
    # A command that needs more says what to install.
    (place / "pipeline.yaml").write_text(retrieved_project.path.read_text())
    (place / "domains").symlink_to(retrieved_project.config.domains)
    refused = light("materialize", folder=place)
    assert refused.returncode == 2
    assert "[pipeline]'" in refused.stderr


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pandas", "obstore"):  # for pictures on servers
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as missing:
        find_pictures("https://host/a.tar")
    assert "[pipeline]'" in missing_extra(missing.value)
    extras = {"mlflow.client": "pipeline", "pyspark": "spark", "h5py": "elevater"}
    for module, extra in extras.items():
        assert f"[{extra}]'" in missing_extra(ModuleNotFoundError("x", name=module))
    with pytest.raises(ModuleNotFoundError):
        missing_extra(ModuleNotFoundError("x", name="react_pipeline.nothing"))
