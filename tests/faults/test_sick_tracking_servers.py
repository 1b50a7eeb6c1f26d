"""FAULTS 29: a tracking server that is down, silent, dripping or endless costs seconds, and never a
result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml
from mlflow.utils.request_utils import TCPKeepAliveHTTPAdapter
from support.sick_servers import SICK, late_reader, overloaded, sick_server, taking, well
from support.tracking import artifact_of, runs_of

from react_pipeline.extensions.doctor.diagnosis import diagnose
from react_pipeline.extensions.tracking_guard import bounded_http
from react_pipeline.extensions.tracking_guard.bounded_http import Allowance
from react_pipeline.project.project import Project
from react_pipeline.store.errors import ReactError
from react_pipeline.tracking import log
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.runs import Runs

REASONS = {
    **dict.fromkeys(("endless_body", "bomb"), "too_many_bytes"),
    **dict.fromkeys(("silent", "dripping_body", "dripping_head"), "no whole answer"),
    **{"overloaded": "503", "looping": "307", "down": "refused"},
}
HANG_SECONDS = 60


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(bounded_http, "_allowances", {})
    monkeypatch.setattr(bounded_http, "MAX_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(log, "_unreachable_until", {})
    monkeypatch.setattr(log, "COOLDOWN_SECONDS", 0.0)


@pytest.mark.parametrize("kind", SICK)
def test_a_sick_server_holds_nobody_up_and_loses_nothing(
    kind: str, tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    stages = (("corpus", "all"), ("retrieved_set", "shapes"), ("control_set", "shapes"))
    artifacts = [artifact_of(tiny_project, *stage) for stage in stages]
    answers: list[object] = []

    def use(uri: str) -> None:
        sick = Tracking(Runs(uri, "tiny"))
        answers.append(sick.sync(tiny_project))
        answers.extend(sick.log_artifact(tiny_project, artifact) for artifact in artifacts)
        answers.append(sick.results_page("address"))
        with pytest.raises(ReactError, match="MLflow does not answer"):
            sick.versions("shapes")

    with sick_server(kind) as uri:
        user = threading.Thread(target=use, args=(uri,), daemon=True)
        user.start()
        user.join(HANG_SECONDS)
        assert not user.is_alive(), "it hangs"
    assert answers == [None, None, None, None, "address"]
    assert REASONS[kind] in caplog.text
    assert tracking.count_missed(tiny_project) == len(artifacts)
    assert tracking.sync(tiny_project) == {artifact.fingerprint for artifact in artifacts}
    for thread in threading.enumerate():
        if thread.name == "mlflow-request":
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "the request of one who gave up goes on"


def test_requests_that_fail_lose_little_more_than_time_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(bounded_http.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    allowance = Allowance()
    for left, failure in (
        (10, 4),
        (8, 2),
        (6, 2),
        (0, 100),
    ):  # less than half the time of one: not asked
        assert allowance.seconds() == left
        allowance.charge(failure)
    now[0] += 3600  # the hour earns what one hour may lose, whatever an upload lost
    assert allowance.seconds() == 10


@contextmanager
def asking(kind: str) -> Iterator[Callable[..., requests.Response]]:
    """A function that asks such a server as MLflow's client does, without its retries."""
    with sick_server(kind) as uri, requests.Session() as session:
        bounded_http.bound(uri)
        session.mount("http://", TCPKeepAliveHTTPAdapter())
        yield lambda body=None: session.post(uri, body, timeout=1)


def test_a_server_that_answers_again_has_all_its_time_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behaviors = [overloaded, well]
    monkeypatch.setitem(
        SICK, "recovering", lambda connection, over: behaviors.pop(0)(connection, over)
    )
    with asking("recovering") as ask:
        (allowance,) = bounded_http._allowances.values()
        allowance.charge(0.4)
        assert ask().status_code == 503
        assert allowance.seconds() < 1
        assert ask().status_code == 200
        assert allowance.seconds() == 1


def test_a_timeout_names_the_setting_of_a_slow_server() -> None:
    with asking("silent") as ask:
        for message in (
            "no whole answer.*MLFLOW_HTTP_REQUEST_TIMEOUT",
            "before.*MLFLOW_HTTP_REQUEST_TIMEOUT",
        ):
            with pytest.raises(requests.Timeout, match=message):
                ask()


def test_a_request_that_fails_uses_up_the_allowance(
    tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with sick_server("silent") as uri:
        for _ in range(3):
            assert Tracking(Runs(uri, "tiny")).sync(tiny_project) is None
    assert any("it did not answer before" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("behave", "seconds", "end"),
    [(taking, "0.2", "given up"), (late_reader, "2", 200)],
    ids=["silent", "late"],
)
def test_the_time_of_an_upload_is_for_sending_alone(
    behave: Callable[..., None], seconds: str, end: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", seconds)
    monkeypatch.setitem(SICK, "upload", behave)
    monkeypatch.setattr(bounded_http, "MIN_UPLOAD_BYTES_PER_SECOND", 1 << 16)  # 256 s
    ends: list[object] = []

    def use() -> None:
        with asking("upload") as ask:
            try:
                ends.append(ask(bytes(16 << 20) + b".").status_code)
            except requests.Timeout:
                ends.append("given up")

    user = threading.Thread(target=use, daemon=True)
    user.start()
    user.join(HANG_SECONDS)
    assert ends == [end]


@pytest.mark.parametrize("kind", ["dripping_body", "endless_body", "silent"])
def test_doctor_reports_a_sick_server(
    kind: str, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.doctor.diagnosis.SERVER_TIMEOUT_SECONDS", 0.5)
    reported: list[str] = []
    with sick_server(kind) as uri:
        monkeypatch.setenv("REACT_TRACKING_URI", uri)

        def look() -> None:
            reported.extend(
                entry.state for entry in diagnose(tiny_project.path) if entry.what == "tracking"
            )

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(HANG_SECONDS)
    assert reported == ["note"]


# The commands take a minute or two each; the tests above see every kind within one process.
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.operations] * (kind in ("silent", "dripping_body")))
        for kind in SICK
    ],
)
def test_commands_end_beside_a_sick_server(
    kind: str, tiny_project: Project, tmp_path: Path
) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    del environment["MLFLOW_HTTP_REQUEST_TIMEOUT"]

    def run(*arguments: str, uri: str | None) -> subprocess.CompletedProcess[str]:
        raw = yaml.safe_load(tiny_project.path.read_text())
        tiny_project.path.write_text(yaml.safe_dump({**raw, "tracking_uri": uri}))
        command = [sys.executable, "-m", "react_pipeline", *arguments]
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        print(
            kind, arguments[0], f"{time.monotonic() - started:.1f} s"
        )  # shown by -rP, not asserted
        return done

    build = ["materialize", "--domain", "shapes", "--method", "base", "--method", "gated-image"]
    with sick_server(kind) as uri:
        built = run(*build, uri=uri)
        assert built.returncode == 0, built.stderr
        assert built.stderr.count("is unavailable") <= 4 and "Traceback" not in built.stderr
        shown = run("models", "list", uri=uri)
        assert shown.returncode == 0 and "MLflow does not answer" in shown.stderr
        assert "gated-image" in run("results", uri=uri).stdout
    assert run(*build, uri=None).returncode == 0
    tracking = Tracking.of(Project.load(tiny_project.path))
    assert tracking.count_missed(tiny_project) == 0
    for stage in ("corpus", "retrieved_set", "customized_checkpoint", "comparison"):
        assert {run.info.status for run in runs_of(tracking, asset=stage)} == {"FINISHED"}
