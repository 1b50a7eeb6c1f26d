"""FAULTS 29: a tracking server that is down, silent or overloaded costs seconds, and never a
result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from support.sick_servers import sick_server
from support.tracking import artifact_of, runs_of, tracking_at

from react_pipeline.extensions.plan.diagnosis import diagnose
from react_pipeline.project import Project
from react_pipeline.tracking import Tracking, log

REASONS = {"silent": "timeout", "overloaded": "503", "looping": "307", "down": "refused"}
HANG_SECONDS = 600


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "COOLDOWN_SECONDS", 0.0)


@pytest.mark.parametrize("kind", REASONS)
def test_a_sick_server_holds_nobody_up_and_loses_nothing(
    kind: str,
    tracking: Tracking,
    tiny_project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The others answer, on a busy machine late.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if kind == "silent" else "300")
    stages = (("corpus", "all"), ("retrieved_set", "shapes"))
    artifacts = [artifact_of(tiny_project, *stage) for stage in stages]
    answers: list[object] = []

    def use(uri: str) -> None:
        sick = tracking_at(tiny_project, uri)
        answers.append(sick.sync())
        answers.extend(sick.log_artifact(artifact) for artifact in artifacts)
        answers.append(sick.results_page("address"))

    with sick_server(kind) as uri:
        user = threading.Thread(target=use, args=(uri,), daemon=True)
        user.start()
        user.join(HANG_SECONDS)
        assert not user.is_alive(), "it hangs"
    assert answers == [None, None, None, "address"]
    assert REASONS[kind] in caplog.text
    assert tracking.sync() == {artifact.fingerprint for artifact in artifacts}


# The commands take a minute or two; the tests above see every kind within one process.
@pytest.mark.slow
@pytest.mark.operations
def test_commands_end_beside_a_silent_server(tiny_project: Project, tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    environment.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)

    def run(*arguments: str, uri: str | None) -> subprocess.CompletedProcess[str]:
        raw = yaml.safe_load(tiny_project.path.read_text())
        tiny_project.path.write_text(yaml.safe_dump({**raw, "tracking_uri": uri}))
        command = [sys.executable, "-m", "react_pipeline", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1_800
        )

    build = ["materialize", "--domain", "shapes", "--method", "base", "--method", "gated-image"]
    with sick_server("silent") as uri:
        built = run(*build, uri=uri)
        assert built.returncode == 0, built.stderr
        assert built.stderr.count("is unavailable") <= 4 and "Traceback" not in built.stderr
        assert run("models", "list", uri=uri).returncode == 0
        assert "gated-image" in run("results", uri=uri).stdout
    assert run(*build, uri=None).returncode == 0
    tracking = Tracking(Project.load(tiny_project.path))
    for stage in ("corpus", "retrieved_set", "customized_checkpoint", "comparison"):
        assert {run.info.status for run in runs_of(tracking, asset=stage)} == {"FINISHED"}


@pytest.mark.parametrize("kind", ["dripping_body", "endless_body", "silent"])
def test_doctor_reports_a_sick_server(
    kind: str, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.plan.diagnosis.SERVER_TIMEOUT_SECONDS", 0.5)
    reported: list[str] = []
    with sick_server(kind) as uri:
        monkeypatch.setenv("REACT_TRACKING_URI", uri)

        def look() -> None:
            reported.extend(
                entry.state for entry in diagnose(tiny_project.path) if entry.what == "tracking"
            )

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(120)
    assert reported == ["note"]
