"""FAULTS 1, 3 and others where artifacts are in object storage: a server that fails, credentials
that expire, builders killed at any request, with `prune` beside them.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.bucket import BucketServer, Environ

from react_pipeline.extensions.buckets import bucket_pruning, leases
from react_pipeline.extensions.buckets.bucket import _explained
from react_pipeline.extensions.buckets.bucket_store import BucketStore
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import InputError, ReactError, SourceUnavailable

_numbers = itertools.count()
FILES = 4

BUILDER = f"""
import sys
from pathlib import Path
from react_pipeline.store import Inputs
from react_pipeline.extensions.buckets import leases
from react_pipeline.extensions.buckets.bucket_store import BucketStore

url, folder, value = sys.argv[1:]

def write(directory, _):
    for number in range({FILES}):
        (directory / str(number)).write_text(value * 1000)
    return {{}}

leases.LEASE_SECONDS, leases.HEARTBEAT_SECONDS = 5, 1
store = BucketStore(url, Path(folder), 1e9)
parent = store.build(Inputs("parent", "all", {{"value": value}}, {{}}, "1"), write)
child = store.build(Inputs("child", "all", {{}}, {{"parent": parent}}, "1"), write)
assert (child.path / "0").read_text() == value * 1000
"""


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    server = BucketServer()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in server.environment.items():
            patched.setenv(name, value)
        yield server
    server.stop()


@pytest.fixture
def store(server: BucketServer, tmp_path: Path) -> Iterator[BucketStore]:
    yield BucketStore(f"s3://artifacts/faults-{next(_numbers)}", tmp_path / "here", 1e9)
    server.spoil = lambda _: None


def write(directory: Path, _: object) -> dict[str, int]:
    for number in range(FILES):
        (directory / str(number)).write_text("data")
    return {}


def refuse(*_: object) -> dict[str, int]:
    raise AssertionError("built twice")


THING = Inputs("thing", "all", {}, {}, "1")


def test_a_server_that_fails_for_a_while_delays_a_build(
    store: BucketStore, server: BucketServer
) -> None:
    started = time.monotonic()
    failures = itertools.count()

    def spoil(_: Environ) -> tuple[str, str] | None:
        if time.monotonic() - started < 2:
            next(failures)
            return "503 Slow Down", "SlowDown"
        return None

    server.spoil = spoil
    artifact = store.build(THING, write)
    assert next(failures) > 1
    assert artifact.file("0").read_text() == "data"


def test_a_server_that_keeps_failing_is_named_in_one_line(
    store: BucketStore, server: BucketServer
) -> None:
    object.__setattr__(store.bucket, "retry_seconds", 0.5)
    server.spoil = lambda environ: (
        ("503 Slow Down", "SlowDown") if "/_" in environ["PATH_INFO"] else None
    )
    with pytest.raises(SourceUnavailable, match="SlowDown") as error:
        store.build(THING, write)
    assert "\n" not in str(error.value)
    server.spoil = lambda _: None
    assert store.versions("thing", "all") == []
    assert not store.build(THING, refuse).reused


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_expired_credentials_stop_an_upload_and_lose_nothing(
    store: BucketStore, server: BucketServer, code: str
) -> None:
    uploads = itertools.count()
    status = "400 Bad Request" if code == "ExpiredToken" else "403 Forbidden"
    server.spoil = lambda environ: (
        (status, code) if "/_" in environ["PATH_INFO"] and next(uploads) >= FILES // 2 else None
    )
    with pytest.raises(InputError, match=code) as error:
        store.build(THING, write)
    assert "\n" not in str(error.value)
    server.spoil = lambda _: None
    assert store.versions("thing", "all") == []
    assert store.build(THING, refuse).file("3").read_text() == "data"


def test_a_bucket_that_is_not_there_is_named(server: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        BucketStore("s3://nobody-made-it/x", tmp_path, 1e9).build(THING, write)


def test_missing_credentials_are_named() -> None:
    # Without any, the library asks the machine's own cloud.
    error = Exception("error sending request for url (http://169.254.169.254/latest/api/token)")
    assert "no credentials" in str(_explained("s3://artifacts/a", error))


def test_a_server_that_ignores_conditions_is_refused(
    store: BucketStore, server: BucketServer
) -> None:
    store.bucket.require_conditional_writes()

    def ignore(environ: Environ) -> None:
        environ.pop("HTTP_IF_MATCH", None), environ.pop("HTTP_IF_NONE_MATCH", None)

    server.spoil = ignore
    with pytest.raises(InputError, match="conditions"):
        store.bucket.require_conditional_writes()


def test_a_forked_process_gets_an_error_and_does_not_hang(store: BucketStore) -> None:
    store.build(THING, write)
    child = os.fork()
    if child == 0:
        with suppress(ReactError):
            store.current("thing", "all")
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [pytest.param(4, marks=pytest.mark.operations), 100])
def test_builders_killed_at_any_request_leave_nothing_torn(
    store: BucketStore,
    server: BucketServer,
    tmp_path: Path,
    kills: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hosts build; one is killed at a random request; another prunes and a reader reads."""
    monkeypatch.setattr(bucket_pruning, "ORPHAN_SECONDS", 20)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 5)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 1)
    chance = random.Random(0)  # noqa: S311 - reproducible
    stopped = threading.Event()
    faults: list[str] = []
    beside = [
        threading.Thread(target=keep_on, args=(action, stopped, faults))
        for action in (lambda: prune(store), lambda: read_all(store, tmp_path))
    ]
    for thread in beside:
        thread.start()
    try:
        for number in range(kills):
            value = str(chance.randint(1, 3))
            victim = start(store.bucket.url, tmp_path / "victim", value)
            kill_at(server, victim, chance.randint(1, 45))
            survivor = start(store.bucket.url, tmp_path / f"survivor{number % 2}", value)
            _, errors = survivor.communicate(timeout=300)
            assert survivor.returncode == 0, errors
            victim.communicate(timeout=300)
            assert victim.returncode in (0, -signal.SIGKILL)
            server.spoil = lambda _: None
    finally:
        stopped.set()
        for thread in beside:
            thread.join()
    assert faults == []
    assert [error for _, error in store.verify() if error is not None] == []
    look = store.look()
    assert look.current("child", "all").parents["parent"] in look.versions("parent", "all")


def start(url: str, folder: Path, value: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, url, str(folder), value]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def kill_at(server: BucketServer, victim: subprocess.Popen[str], number: int) -> None:
    """Kill a process when the server gets so many requests, of whomever."""
    seen = itertools.count(1)

    def spoil(_: Environ) -> None:
        if next(seen) == number and victim.poll() is None:
            victim.kill()

    server.spoil = spoil


def keep_on(action: object, stopped: threading.Event, faults: list[str]) -> None:
    assert callable(action)
    while not stopped.wait(0.1):
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
            faults.append(repr(error))


def prune(store: BucketStore) -> None:
    store.prune(keep_seconds=1)


def read_all(store: BucketStore, folder: Path) -> None:
    """What a pointer names is whole, or was pruned since."""
    reader = BucketStore(store.bucket.url, folder / "reader", 1e9)
    for stage in ("parent", "child"):
        for _ in range(2):
            fingerprint = reader.pointer(stage, "all")
            try:
                if fingerprint:
                    artifact = reader.open(stage, "all", fingerprint)
                    texts = {path.read_text() for path in artifact.path.glob("[0-9]")}
                    assert len(texts) == 1
                break
            except ReactError:
                if reader.pointer(stage, "all") == fingerprint and fingerprint in reader.versions(
                    stage, "all"
                ):
                    raise
