"""As a new user, from an empty folder and a wheel: labelled pictures, a champion by clicks, a
server, an export.

The same way as docs/getting-started.md, with a random model: what it learns does not matter here.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.drawings import COLOURS, SHAPES, draw
from support.services import answer, free_port, program, running

from react_pipeline.extensions.pages.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.operations]

PICTURES, JUDGEMENTS = 200, 60
CLASSES = [*(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), *SHAPES]
# Steps large enough for the models to disagree.
TRAINING = {
    "steps": 12,
    "batch_size": 8,
    "learning_rate": 0.01,
    "last_k_layers": 2,
    "augmentation": "none",
}


def test_class_names_and_pictures_become_a_served_champion(
    installed: Path, tiny_checkpoint: Path, drawings: Path, tmp_path: Path
) -> None:
    program("chromium", "chromium")
    # A whole installation has these; MLflow starts `uvicorn` by its name.
    for name in ("mlflow", "uvicorn"):
        script = f"import runpy\nrunpy.run_module({name!r}, run_name='__main__', alter_sys=True)\n"
        (installed / "bin" / name).write_text(f"#!{installed}/bin/python\n{script}")
        (installed / "bin" / name).chmod(0o755)
    dropped = ("DAGSTER_HOME", "PYTHONPATH", "REACT_PIPELINE_CONFIG")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment["PATH"] = f"{installed / 'bin'}{os.pathsep}{environment['PATH']}"
    project = tmp_path / "project"

    def run(*command: str, folder: Path = project) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("react-pipeline", "init", "project", "--encoder", "local-dir:model", folder=tmp_path)
    (project / "model").symlink_to(tiny_checkpoint)
    (project / "data").symlink_to(drawings / "shards")
    (project / "domains" / "birds.yaml").unlink()
    settings = yaml.safe_load((project / "pipeline.yaml").read_text())
    settings["customization"]["defaults"] = TRAINING
    settings["retrieval"] |= {
        "k_per_prompt": 10,
        "max_per_class": 12,
        "near_duplicate_similarity": 1.01,
    }
    settings["retrieval"]["max_starving_fraction"] = 1.0
    (project / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    (project / "domains" / "shapes.yaml").write_text(yaml.safe_dump({"classes": CLASSES}))
    pictures = project / "pictures"
    pictures.mkdir()
    for number in range(PICTURES):
        draw(SHAPES[number % 4], COLOURS[number // 4 % 4], 1000 + number).save(
            pictures / f"{number:03d}.png"
        )

    run(
        "react-pipeline",
        "materialize",
        "--domain",
        "shapes",
        "--method",
        "base",
        "--method",
        "gated-image",
    )
    run("react-pipeline", "predict", "shapes", "pictures", "--model", "gated-image")
    with (project / "predictions" / "predictions.csv").open(newline="") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= set(CLASSES)
    assert json.loads((project / "predictions" / "run.json").read_text())["used"] == PICTURES

    judge_by_keys(project, environment, tmp_path)
    select = ["--select", "key:comparison or key:promotion", "--domain", "shapes"]
    run("react-pipeline", "materialize", *select, "--method", "base", "--method", "gated-image")
    assert "becomes champion" in run("react-pipeline", "models", "list")
    together = ["--transductive", "--output", "by-champion"]
    assert "by gated-image" in run("react-pipeline", "predict", "shapes", "pictures", *together)

    export = ["export", "shapes", "champion", "--to", str(tmp_path / "exported")]
    assert "README.md" in run("react-pipeline", *export, "--format", "onnx-int8")
    picture = pictures / "000.png"
    load = (
        "import sys; from react_pipeline import Classifier; from dataclasses import asdict; "
        "import json; "
    )
    ask = "print(json.dumps(asdict(Classifier.load(sys.argv[1]).predict([sys.argv[2]])[0])))"
    exported = json.loads(
        run("python", "-c", load + ask, str(tmp_path / "exported"), str(picture), folder=tmp_path)
    )
    served = ask_server(project, environment, picture, tmp_path)
    assert (served["label"], served["classes"], served["error"]) == (
        exported["label"],
        exported["classes"],
        None,
    )
    assert served["confidence"] == pytest.approx(exported["confidence"], abs=1e-3)
    assert served["calibrated"] is False  # nothing is labelled here


def judge_by_keys(project: Path, environment: dict[str, str], folder: Path) -> None:
    """Judge in a browser: whatever the candidate says, four times in five."""
    from docs.screenshots import open_page

    command = [
        "react-pipeline",
        "judge",
        "shapes",
        "pictures",
        "--port",
        "0",
        "--by",
        "a script",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=project
    )
    try:
        assert process.stdout is not None
        address = next(
            filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stdout))
        )[0]
        (log,) = (project / "judgements" / "shapes").glob("*.jsonl")
        header = Session.read(log).header
        assert len(header.pictures) > JUDGEMENTS and header.images == PICTURES
        asked: list[str] = []
        wrong: list[str] = []
        with open_page(900, 900) as page:
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(address)

            def wait(number: int) -> None:
                page.get_by_text(f"{number} of {len(header.pictures)} judged").wait_for()

            for number in range(JUDGEMENTS):
                wait(number)
                shown = page.locator("#buttons button").all_inner_texts()[:2]
                wanted = CLASSES[header.pictures[number].candidate]
                place = [text.rsplit(" ", 1)[0].strip() for text in shown].index(wanted)
                page.keyboard.press("n" if number % 5 == 4 else str(place + 1))
                if number == 10:
                    wait(11)
                    page.keyboard.press("z")
                    wait(10)
                    page.keyboard.press(str(place + 1))
            wait(JUDGEMENTS)
            picture = page.locator("#items img")
            assert (
                picture.evaluate("async picture => (await picture.decode(), picture.naturalWidth)")
                == 40
            )
            assert "gated-image over base" in page.inner_text("#notice")
            page.screenshot(path=folder / "judge.png")
        assert wrong == [] and [url for url in asked if not url.startswith(address)] == []
    finally:
        process.terminate()
        process.wait(180)
    counts = Session.read(log).counts
    assert (counts["judged"], counts["won"], counts["neither"]) == (JUDGEMENTS, 48, 12)


def ask_server(
    project: Path, environment: dict[str, str], picture: Path, folder: Path
) -> dict[str, Any]:
    """The answer of `mlflow models serve` to one picture."""
    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        "models:/react-shapes@champion",
        "--env-manager",
        "local",
    ]
    tracking = {
        "MLFLOW_TRACKING_URI": "sqlite:///.react/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    serve = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with running(serve, folder / "serve.log", env=environment | tracking, cwd=project):
        assert answer(f"http://127.0.0.1:{port}/ping", 180)[0] == 200
        image = base64.b64encode(picture.read_bytes()).decode()
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}).encode()
        url = f"http://127.0.0.1:{port}/invocations"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as found:  # noqa: S310
            (row,) = json.load(found)["predictions"]
    return dict(row)
