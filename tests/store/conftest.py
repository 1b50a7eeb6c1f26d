"""Both kinds of store: tests that take `store` run against a folder and against a bucket.

A test of the folder's own files takes it by `FOLDER`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bucket import BucketServer

from react_pipeline.store.bucket_store import BucketStore
from react_pipeline.store.store import Store

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _server() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.stop()


@pytest.fixture
def server(_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """The server of `bucket`, which answers as it should again after the test."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    yield _server
    _server.spoil = lambda _: None


@pytest.fixture
def bucket(server: BucketServer, tmp_path: Path) -> BucketStore:
    # No two tests share a prefix, by which clients and manifests are remembered.
    return BucketStore(f"s3://artifacts/{os.getpid()}-{next(_numbers)}", tmp_path / "here", 1e9)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "store")
    return request.getfixturevalue("bucket")
