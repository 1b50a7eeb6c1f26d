"""Real services on loopback for tests: PostgreSQL, an S3 store, and any program that answers at a
port.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from react_pipeline.extensions.ui.servers import end
from react_pipeline.project import Project


def free_port() -> int:
    """A port that is free, of those that the system gives to nobody by itself: it stays free until
    its server starts, whatever tests run beside.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def program(name: str, package: str, folders: Sequence[str] = ()) -> str:
    """Where a program lies, or a skip that names the Debian package that brings it."""
    places = [str(one) for folder in folders for one in sorted(Path("/").glob(folder[1:]))]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """A PostgreSQL of its own with two empty databases; gives its URL, to which the name of a
    database is added.
    """
    port, data = str(free_port()), directory / "postgres"
    data.mkdir(parents=True)
    run: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        shutil.chown(data, "postgres")
        run = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def call(name: str, *arguments: str) -> None:
        # Every start of pytest closes the folders of tests to another user.
        for folder in data.parents if run else ():
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        found = program(name, "postgresql", ["/usr/lib/postgresql/*/bin"])
        command = [*run, found, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    call("initdb", "-D", str(data), "-U", "react", "--auth=trust", "--no-sync")
    control = ["-D", str(data), "-w", "-l", str(data / "postgres.log")]
    call("pg_ctl", *control, "-o", f"-p {port} -h 127.0.0.1 -k '' -F", "start")
    try:
        for name in ("dagster", "mlflow"):
            call("createdb", "-h", "127.0.0.1", "-p", port, "-U", "react", name)
        yield f"postgresql://react@127.0.0.1:{port}"
    finally:
        call("pg_ctl", *control, "-m", "immediate", "stop")


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program with all its children, ended on leaving."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        end([process], signals)
        process.wait()


def command(project: Project, *words: str) -> list[str]:
    """The words that run a command of this library on a project."""
    return [sys.executable, "-m", "react_pipeline", *words, "--config", str(project.path)]


@contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A command that serves a page: the address that it prints, and its process, which is killed on
    leaving.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        found = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stdout)
        yield next(filter(None, found))[0], process
    finally:
        process.kill()
        process.wait()


def command_lines(pid: int) -> dict[psutil.Process, list[str]]:
    """Processes below `pid` and their arguments; none of those that have ended meanwhile."""
    lines = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            lines[process] = process.cmdline()
    return lines


def answer(
    url: str,
    seconds: float = 600,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """Status and body of a page, as soon as its server answers at all; with a body, of a POST."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310 - loopback
            with urllib.request.urlopen(request, timeout=seconds if body else 10) as page:  # noqa: S310
                return int(page.status), bytes(page.read())
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
