"""FAULTS 1, 3 and others where artifacts are in object storage: a server that fails, credentials
that expire, forks. Builders that are killed: `store/test_torture.py`.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.bucket import BucketServer, Environ

from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.bucket import _explained
from react_pipeline.store.errors import InputError, ReactError, SourceUnavailable
from react_pipeline.store.store import Store

FILES = 4


def write(directory: Path, _: object) -> dict[str, int]:
    for number in range(FILES):
        (directory / str(number)).write_text("data")
    return {}


def refuse(*_: object) -> dict[str, int]:
    raise AssertionError("built twice")


THING = Inputs("thing", "all", {}, {}, "1")


def test_a_server_that_fails_for_a_while_delays_a_build(
    bucket: Store, server: BucketServer
) -> None:
    failures = iter(range(5))
    server.spoil = lambda _: (
        ("503 Slow Down", "SlowDown") if next(failures, None) is not None else None
    )
    artifact = bucket.build(THING, write)
    assert next(failures, None) is None
    assert artifact.file("0").read_text() == "data"


def test_a_server_that_keeps_failing_is_named_in_one_line(
    bucket: Store, server: BucketServer
) -> None:
    bucket.backend = replace(bucket.backend, retry_seconds=0.5)  # type: ignore[type-var]
    server.spoil = lambda environ: (
        ("503 Slow Down", "SlowDown") if "/_" in environ["PATH_INFO"] else None
    )
    with pytest.raises(SourceUnavailable, match="SlowDown") as error:
        bucket.build(THING, write)
    assert "\n" not in str(error.value)
    server.spoil = lambda _: None
    assert bucket.versions("thing", "all") == []
    assert not bucket.build(THING, refuse).reused


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_expired_credentials_stop_an_upload_and_lose_nothing(
    bucket: Store, server: BucketServer, code: str
) -> None:
    uploads = itertools.count()
    status = "400 Bad Request" if code == "ExpiredToken" else "403 Forbidden"
    server.spoil = lambda environ: (
        (status, code) if "/_" in environ["PATH_INFO"] and next(uploads) >= FILES // 2 else None
    )
    with pytest.raises(InputError, match=code) as error:
        bucket.build(THING, write)
    assert "\n" not in str(error.value)
    server.spoil = lambda _: None
    assert bucket.versions("thing", "all") == []
    assert bucket.build(THING, refuse).file("3").read_text() == "data"


def test_missing_credentials_are_named() -> None:
    # Without any, the library asks the machine's own cloud.
    error = Exception("error sending request for url (http://169.254.169.254/latest/api/token)")
    assert "no credentials" in str(_explained("s3://artifacts/a", error))


@pytest.mark.parametrize("condition", ["HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"])
def test_a_server_that_ignores_conditions_is_refused(
    bucket: Store, server: BucketServer, condition: str
) -> None:
    bucket.backend.require_usable()

    def ignore(environ: Environ) -> None:
        environ.pop(condition, None)

    server.spoil = ignore
    with pytest.raises(InputError, match="conditions"):
        bucket.backend.require_usable()


def test_a_forked_process_gets_an_error_and_does_not_hang(bucket: Store) -> None:
    bucket.build(THING, write)
    child = os.fork()
    if child == 0:
        with suppress(ReactError):
            bucket.current("thing", "all")
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
