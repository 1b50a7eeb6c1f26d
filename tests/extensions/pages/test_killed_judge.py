"""The judging server is killed in the middle: what it acknowledged is there, and the same command
resumes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.drawings import draw
from support.judging import SLUG, without_labels

from react_pipeline.extensions.pages import judge as judging
from react_pipeline.extensions.pages.session import Session
from react_pipeline.project.project import Project


@contextmanager
def serving(command: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        address = next(
            filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stdout))
        )
        yield address[0], process
    finally:
        process.kill()
        process.wait()


def ask(url: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


@pytest.mark.slow
def test_acknowledged_answers_outlive_a_kill(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = without_labels(make_project(), ["gated-image"])
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        draw("circle", "red", number).save(tmp_path / "pictures" / f"{number}.png")
    monkeypatch.setattr(
        judging,
        "_classify",
        lambda _p, _s, model, found, _work: (
            (one.name, int(model.stage == "base_checkpoint")) for one in found
        ),
    )
    log, _ = judging.prepare_log(project, SLUG, str(tmp_path / "pictures"), None, "base", print)
    command = [sys.executable, "-m", "react_pipeline", "judge", SLUG, str(tmp_path / "pictures")]
    command += ["--port", "0", "--by", "a tester", "--config", str(project.path)]
    with serving(command) as (address, process):
        for number in range(5):
            ask(f"{address}/view", {"answer": {"picture": number, "choice": "neither"}})
        process.kill()
    with log.open("ab") as file:
        file.write(b'{"picture": 5, "an')
    with serving(command) as (address, process):
        assert ask(f"{address}/view", {})["status"] == "5 of 20 judged"
        ask(f"{address}/view", {"answer": {"picture": 5, "choice": "unsure"}})
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2 and "another" in second.stderr
        process.terminate()
        assert process.stdout is not None
        printed = process.stdout.read()
        assert "(6 judged, of 20 pictures)" in printed
        assert "next: react-pipeline materialize --select" in printed
        assert process.wait(900) == 0
    session = Session.read(log)
    assert [entry.answer for entry in session.entries] == ["neither"] * 5 + ["unsure"]
    assert {entry.judge for entry in session.entries} == {"a tester"}
    artifact = project.store.current("judgements", SLUG)
    assert artifact.counts["sessions"] == 1
