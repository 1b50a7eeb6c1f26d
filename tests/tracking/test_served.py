"""Versions of `react-<domain>` are MLflow models: they load by alias, classify frames, and answer
over HTTP.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient
from support.drawings import draw

from react_pipeline import Classifier
from react_pipeline.evaluation import evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.project import Project
from react_pipeline.store import Artifact
from react_pipeline.tracking import Tracking
from react_pipeline.tracking.package import write_code
from react_pipeline.training import customize

URI = "models:/react-shapes@champion"


def register(project: Project, tracking: Tracking, method: str) -> Artifact:
    """A registered checkpoint, with the alias; MLflow finds it at its global address."""
    made = customize(project, "shapes", method)
    assert tracking.log_artifact(made)
    MlflowClient(tracking.uri).set_registered_model_alias("react-shapes", "champion", "1")
    mlflow.set_tracking_uri(tracking.uri)
    return made


@pytest.fixture
def checkpoint(retrieved_project: Project, tracking: Tracking) -> Artifact:
    return register(retrieved_project, tracking, "gated-image")


@pytest.fixture
def head(retrieved_project: Project, tracking: Tracking) -> Artifact:
    """Its weights are the base's."""
    return register(retrieved_project, tracking, "gda")


def png(folder: Path, number: int = 0) -> Path:
    path = folder / f"{number}.png"
    draw("circle", "red", number).save(path)
    return path


@pytest.mark.slow
@pytest.mark.operations
def test_the_served_champion_classifies_as_the_export_does(
    checkpoint: Artifact, retrieved_project: Project, tracking: Tracking, tmp_path: Path
) -> None:
    path = png(tmp_path)
    data = path.read_bytes()
    text = base64.b64encode(data).decode()
    (expected,) = Classifier.load(
        export(retrieved_project, "shapes", "gated-image", tmp_path / "out")
    ).predict([path])
    model = mlflow.pyfunc.load_model(URI)
    images = [
        str(path),
        data,
        text,
        f"data:image/png;base64,{text}",
        b"no image",
        "no/such/file.png",
        None,
    ]
    found = model.predict(pd.DataFrame({"image": images}, index=range(10, 17)))
    assert list(found.index) == list(range(10, 17))
    good, bad = found.iloc[:4], found.iloc[4:]
    assert set(good["label"]) == {expected.label} and good["error"].isna().all()
    assert not good["calibrated"].any() and bad["calibrated"].isna().all()
    assert [*good["confidence"]] == pytest.approx([expected.confidence] * 4, abs=1e-4)
    assert tuple(good["classes"].iloc[0]) == expected.classes
    assert bad["label"].isna().all() and bad["error"].str.startswith("not_an_image").all()
    options = {"top_k": 2, "threshold": 1.0}
    near = model.predict(pd.DataFrame({"image": [data]}), params=options).iloc[0]
    assert near["label"] == "unknown" and len(near["classes"]) == len(near["scores"]) == 2
    # It is measured after it was logged.
    assert tracking.log_artifact(evaluate(retrieved_project, "shapes", "gated-image"))
    (calibrated,) = Classifier.load(
        export(retrieved_project, "shapes", "gated-image", tmp_path / "measured")
    ).predict([path])
    assert calibrated.confidence != pytest.approx(expected.confidence, abs=0.01)
    found = mlflow.pyfunc.load_model(URI).predict(pd.DataFrame({"image": [data]}))
    assert found["calibrated"].all()
    assert [*found["confidence"]] == pytest.approx([calibrated.confidence], abs=1e-4)


@pytest.mark.parametrize("name", ["checkpoint", "head"])
def test_a_model_holds_no_pickle_and_no_second_copy(
    name: str,
    retrieved_project: Project,
    tracking: Tracking,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    checkpoint = request.getfixturevalue(name)
    base = retrieved_project.store.current("base_checkpoint", "all")
    version = MlflowClient(tracking.uri).get_model_version("react-shapes", "1")
    assert version.tags["fingerprint"] == checkpoint.fingerprint
    folder = Path(version.source.removeprefix("file://"))
    about = yaml.safe_load((folder / "MLmodel").read_text())
    assert {"image", "top_k"} <= {
        entry["name"]
        for kind in ("inputs", "params")
        for entry in json.loads(about["signature"][kind])
    }
    model = mlflow.pyfunc.load_model(URI)
    assert model.predict(model.input_example)["error"].isna().all()
    assert model.predict(pd.DataFrame({"image": [str(png(tmp_path))]}))["error"].isna().all()
    assert not [
        path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".bin", ".pt"}
    ]
    (weights,) = folder.rglob("open_clip_model.safetensors")
    source = base if name == "head" else checkpoint
    assert weights.stat().st_ino == source.file(weights.name).stat().st_ino
    # Whoever runs as another user reads the same files, whatever wrote them.
    (retrieved_project.path.parent / "new").touch()
    mode = (retrieved_project.path.parent / "new").stat().st_mode
    files = [path for path in retrieved_project.path.parent.rglob("*") if path.is_file()]
    files = [path for path in files if "code" not in path.parts]  # as they are installed
    assert len(files) > 100 and [path for path in files if path.stat().st_mode != mode] == []
    assert version.description.startswith(f"{version.tags['method']}, trained in ")
    listed = (folder / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[^\w-]", line)[0] for line in listed}
    assert {"torch", "mlflow"} <= names
    # The name is on no index: a tool that took it there would run a stranger's package.
    texts = [
        path.read_text() for path in folder.iterdir() if path.suffix in {".txt", ".yaml", ".toml"}
    ]
    assert len(texts) >= 3 and (folder / "code" / "react_pipeline" / "__init__.py").is_file()
    assert not any(re.search(r"react[-_.]?pipeline", text) for text in texts)
    assert all("==" in line for line in listed)
    assert not {"dagster", "faiss-cpu", "clip-retrieval", "img2dataset"} & names


def rows(*images: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}


@pytest.fixture
def client(head: Artifact, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[int, str]]:
    """Asks MLflow's scoring server, as an ASGI application of this process."""
    monkeypatch.setenv("__pyfunc_model_path__", URI)
    app = TestClient(scoring_server.init(mlflow.pyfunc.load_model(URI)))

    def ask(content: Any) -> tuple[int, str]:
        # By `json.dumps`, which writes NaN.
        answer = app.post(
            "/invocations",
            content=json.dumps(content),
            headers={"content-type": "application/json"},
        )
        return answer.status_code, answer.text

    return ask


def test_wrong_requests_get_one_line(
    client: Callable[[Any], tuple[int, str]], tmp_path: Path
) -> None:
    bad = rows("bm8gaW1hZ2U=", str(png(tmp_path)))  # no stranger reads files
    status, text = client(bad)
    assert status == 200 and text.count("not_an_image") == 2
    for wrong in (
        {**bad, "params": {"top_k": 0}},
        {**bad, "params": {"top_k": 10**9}},
        {**bad, "params": {"threshold": float("nan")}},
        rows(*[""] * 1_001),
        {"dataframe_split": {"columns": ["picture"], "data": [["bm8gaW1hZ2U="]]}},
    ):
        status, text = client(wrong)
        assert status == 400 and "Traceback" not in text and re.search("send|give|missing", text)


def test_the_carried_code_is_this_package_with_its_extensions(tmp_path: Path) -> None:
    place = tmp_path / "code"
    for carried in map(Path, write_code(tmp_path)):
        shutil.copytree(carried, place / carried.name)
    code = (
        "import importlib.metadata as m, react_pipeline as r, react_pipeline.assets as a\n"
        "from react_pipeline import Classifier\n"
        "names = {e.name for e in m.entry_points(group='react_pipeline.extensions')}\n"
        "print(r.__file__, a.__file__, len(names), m.version('react-pipeline'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    assert all(name.startswith(str(place)) for name in found[:2])
    assert int(found[2]) > 10 and found[3] == "0.1.0"
