"""A user interface that is killed takes down nothing that works without it, and leaves no children
behind.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from react_pipeline.extensions.ui import servers as servers_module
from react_pipeline.extensions.ui.servers import (
    Group,
    Server,
    end,
    living,
    locked_for_ui,
    watch,
)
from react_pipeline.project import Project, prepare_home
from react_pipeline.store import InputError, ReactError

STUBBORN = "trap '' INT TERM; sleep 600 & echo started; wait"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "STOP_SECONDS", 0.5)


def server(name: str, script: str, directory: Path) -> Server:
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    return Server(name, "http://127.0.0.1:0", process, directory / f"{name}.log")


@pytest.fixture
def home(tiny_project: Project) -> Path:
    return prepare_home(tiny_project.path.parent)


@pytest.fixture
def group(tiny_project: Project, home: Path) -> Iterator[Group]:
    with locked_for_ui(home) as lock:
        yield Group(tiny_project, home, lock, {"mlflow": "http://127.0.0.1:5000"})


def test_a_server_can_be_ended_where_ui_ignored_signals(group: Group) -> None:
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert group.start("mlflow", "-c", code).process.wait(900) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("killed", [True, False], ids=["killed before", "running"])
def test_a_server_that_ignores_signals_ends_with_its_children(  # FAULTS 36
    killed: bool,
) -> None:
    process = subprocess.Popen(
        ["sh", "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    if killed:
        process.kill()
        process.wait()
    end([process])
    process.communicate(timeout=900)
    assert not living({process.pid})


def test_an_mlflow_page_that_ends_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "WATCH_SECONDS", 0.01)
    mlflow = server("mlflow", "kill -9 $$", tmp_path)
    mlflow.process.wait()
    dagster = server("dagster-daemon", "sleep 0.1; exit 3", tmp_path)
    with pytest.raises(ReactError, match="exit code 3"):
        watch([dagster, mlflow])


def test_what_a_killed_ui_leaves_is_named(group: Group, home: Path) -> None:
    for name in ("mlflow", "dagster-daemon"):
        group.start(name, "-c", "pass").process.wait()
    processes = " ".join(str(one.process.pid) for one in group.servers)
    with pytest.raises(InputError, match=f"kill {processes}"), locked_for_ui(home):
        pass
