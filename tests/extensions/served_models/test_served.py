"""Versions of `react-<domain>` are MLflow models: they load by alias, classify frames, and answer
over HTTP.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support.drawings import draw
from support.services import answer, free_port, running

from react_pipeline import Classifier
from react_pipeline.evaluation.domain_results import evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import promote
from react_pipeline.store.artifacts import Artifact, _remembered, _stamp
from react_pipeline.tracking.log import Tracking
from react_pipeline.training.customization import customize

URI = "models:/react-shapes@champion"


@pytest.fixture
def checkpoint(retrieved_project: Project, tracking: Tracking) -> Artifact:
    """A registered one, with the alias; MLflow finds it at its global address."""
    made = customize(retrieved_project, "shapes", "gated-image")
    assert tracking.log_artifact(retrieved_project, made)
    MlflowClient(tracking.uri).set_registered_model_alias("react-shapes", "champion", "1")
    mlflow.set_tracking_uri(tracking.uri)
    return made


def png(folder: Path, number: int = 0) -> Path:
    path = folder / f"{number}.png"
    draw("circle", "red", number).save(path)
    return path


@pytest.mark.slow
@pytest.mark.operations
def test_the_served_champion_classifies_as_the_export_does(
    checkpoint: Artifact, retrieved_project: Project, tmp_path: Path
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
    assert (
        good["confidence"]
        .astype(float)
        .between(expected.confidence - 1e-4, expected.confidence + 1e-4)
        .all()
    )
    assert tuple(good["classes"].iloc[0]) == expected.classes
    assert bad["label"].isna().all() and bad["error"].str.startswith("not_an_image").all()
    near = model.predict(
        pd.DataFrame({"image": [data]}), params={"top_k": 2, "threshold": 1.0}
    ).iloc[0]
    assert near["label"] == "unknown" and len(near["classes"]) == len(near["scores"]) == 2
    for frame, params in (({"image": [data]}, {"top_k": 0}), ({"picture": [data]}, None)):
        with pytest.raises(MlflowException, match="image") as caught:
            model.predict(pd.DataFrame(frame), params=params)
        assert caught.value.get_http_status_code() == 400


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("logged", ["result", "verdict"])
def test_a_model_measured_after_logging_answers_calibrated(
    checkpoint: Artifact,
    retrieved_project: Project,
    tracking: Tracking,
    tmp_path: Path,
    logged: str,
) -> None:
    paths = [png(tmp_path, number) for number in range(3)]

    def answers() -> tuple[pd.DataFrame, list[float]]:
        chosen = Classifier.load(
            "shapes", "gated-image", config=retrieved_project.path, precision="fp32"
        )
        model = mlflow.pyfunc.load_model(URI)
        found = model.predict(pd.DataFrame({"image": [str(path) for path in paths] + ["no image"]}))
        assert found["calibrated"].tolist() == [chosen.temperature is not None] * 3 + [None]
        folder = export(
            retrieved_project, "shapes", "gated-image", tmp_path / "out", overwrite=True
        )
        assert Classifier.load(folder).calibration == chosen.calibration
        return found, [one.confidence for one in chosen.predict(paths)]

    found, plain = answers()
    assert not found["calibrated"].iloc[0]
    result = evaluate(retrieved_project, "shapes", "gated-image")
    if logged == "result":
        assert tracking.log_artifact(retrieved_project, result)
    else:
        # The way of a champion that is measured again.
        evaluate(retrieved_project, "shapes", "base")
        assert tracking.apply(
            retrieved_project, promote(retrieved_project, "shapes", "gated-image", "a test")
        ).run_id
    found, calibrated = answers()
    assert found["calibrated"].iloc[0] and calibrated != pytest.approx(plain, abs=0.01)
    assert found["confidence"].iloc[:3].tolist() == pytest.approx(calibrated, abs=2e-3)


@pytest.fixture
def head(retrieved_project: Project, tracking: Tracking) -> Artifact:
    """A registered `gda`, whose weights are the base's."""
    made = customize(retrieved_project, "shapes", "gda")
    assert tracking.log_artifact(retrieved_project, made)
    MlflowClient(tracking.uri).set_registered_model_alias("react-shapes", "champion", "1")
    mlflow.set_tracking_uri(tracking.uri)
    return made


@pytest.mark.parametrize("name", ["checkpoint", "head"])
def test_a_model_holds_no_pickle_and_no_second_copy(
    name: str, retrieved_project: Project, tracking: Tracking, request: pytest.FixtureRequest
) -> None:
    checkpoint = request.getfixturevalue(name)
    base = retrieved_project.store.current("base_checkpoint", "all")
    version = MlflowClient(tracking.uri).get_model_version("react-shapes", "1")
    folder = Path(version.source.removeprefix("file://"))
    about = yaml.safe_load((folder / "MLmodel").read_text())
    assert {"image", "top_k"} <= {
        entry["name"]
        for kind in ("inputs", "params")
        for entry in json.loads(about["signature"][kind])
    }
    example = mlflow.pyfunc.load_model(URI).input_example
    assert mlflow.pyfunc.load_model(URI).predict(example)["error"].isna().all()
    assert not [
        path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".bin", ".pt"}
    ]
    (weights,) = folder.rglob("open_clip_model.safetensors")
    source = base if name == "head" else checkpoint
    assert weights.stat().st_ino == source.file(weights.name).stat().st_ino
    assert _remembered(source) == _stamp(
        source
    )  # a link spares no second look at gigabytes, unless it is remembered
    # Whoever runs as another user reads the same files, whatever wrote them.
    (retrieved_project.path.parent / "new").touch()
    mode = (retrieved_project.path.parent / "new").stat().st_mode
    files = [path for path in retrieved_project.path.parent.rglob("*") if path.is_file()]
    assert len(files) > 100 and [path for path in files if path.stat().st_mode != mode] == []
    assert version.description.startswith(
        "gda, trained in " if name == "head" else "gated-image, trained in "
    )
    names = set(
        re.findall(r"^[\w-]+", (folder / "requirements.txt").read_text(), flags=re.MULTILINE)
    )
    assert {"torch", "mlflow"} <= names
    # The name is on no index: whoever takes it there would run in every environment that a tool
    # makes of the model.
    texts = [
        path.read_text() for path in folder.iterdir() if path.suffix in {".txt", ".yaml", ".toml"}
    ]
    assert len(texts) >= 3 and not any(re.search(r"react[-_.]?pipeline", text) for text in texts)
    assert not {"dagster", "faiss-cpu", "clip-retrieval", "img2dataset"} & names


@contextmanager
def serving(tracking: Tracking, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        URI,
        "--env-manager",
        "local",
    ]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # MLflow starts `uvicorn` by its name.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with running(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        folder / "serve.log",
        env=environment,
    ):
        assert answer(f"http://127.0.0.1:{port}/ping", 180)[0] == 200
        yield f"http://127.0.0.1:{port}/invocations"


def ask(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as found:  # noqa: S310 - loopback
            return found.status, json.load(found)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.operations
def test_a_served_champion_survives_what_is_no_image(
    checkpoint: Artifact, tracking: Tracking, tmp_path: Path
) -> None:
    path = png(tmp_path)
    text = base64.b64encode(path.read_bytes()).decode()

    def rows(*images: Any) -> dict[str, Any]:
        return {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}

    with serving(tracking, tmp_path) as url:
        code, found = ask(url, rows(text, "bm8gaW1hZ2U=", str(path), 7))
        assert code == 200
        good, *bad = found["predictions"]
        assert good["error"] is None and good["label"] in good["classes"]
        # A file of the server's machine is never read for whoever asks.
        assert [row["label"] for row in bad] == [None] * 3 and all(
            "not_an_image" in row["error"] for row in bad
        )
        code, found = ask(url, rows("A" * 200_000_000))
        assert code == 200 and "too_many_bytes" in found["predictions"][0]["error"]
        code, found = ask(url, {"dataframe_split": {"columns": ["picture"], "data": [[text]]}})
        assert code == 400
        code, found = ask(url, {**rows(text), "params": {"top_k": 1}})
        assert code == 200 and len(found["predictions"][0]["classes"]) == 1
