"""FAULTS 1, 3, 4, 37, 45 where artifacts are objects: conditional writes, copies, looks; a server
that fails, credentials that expire, forks. Builders that are killed: `test_torture.py`.
"""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bucket import BucketServer, Environ
from support.things import elsewhere, inputs, publish, write

from react_pipeline.store import (
    Artifact,
    Bucket,
    InputError,
    ReactError,
    SourceUnavailable,
    Store,
    StoreWriteError,
)
from react_pipeline.store.artifacts import parse_manifest
from react_pipeline.store.bucket import _explained


def refuse(*_: object) -> dict[str, int]:
    raise AssertionError("built twice")


def paths(store: Store) -> list[str]:
    return [entry.path for entry in store.backend.entries("thing")]


def failing(environ: Environ) -> tuple[str, str]:
    return "503 Slow Down", "SlowDown"


def copy_of(artifact: Artifact) -> Path:
    return artifact.store.root / ".copies" / artifact.manifest["attempt"]


def test_the_manifest_is_written_after_all_files(
    bucket: Store, server: BucketServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.requests.clear()
    artifact = publish(bucket)
    puts = [path.partition("thing/")[2] for method, path in server.requests if method == "PUT"]
    files = {f"{artifact.prefix}/{name}".removeprefix("thing/") for name in ("sub/data", "more")}
    manifest = f"all/{artifact.fingerprint}/manifest.json"
    assert puts.index(manifest) > max(puts.index(name) for name in files)
    assert puts.index("all/current") > puts.index(manifest)
    assert not artifact.reused and not caplog.records


def test_another_host_opens_artifacts_file_by_file(bucket: Store, server: BucketServer) -> None:
    publish(bucket)
    server.requests.clear()
    opened = elsewhere(bucket).current("thing", "all")
    for _ in range(2):
        assert opened.counts == {"rows": 1} and opened.file("sub/data").read_text() == "data"
    assert [path.rpartition("/")[2] for _, path in server.requests] == [
        "current",
        "manifest.json",
        "data",
    ]
    assert (opened.path / "more").read_text() == "more"
    assert pickle.loads(pickle.dumps(opened)).file("more").read_text() == "more"  # noqa: S301
    assert elsewhere(bucket, "third").look().current("thing", "all").file("more").exists()


def test_the_answer_to_a_won_write_may_be_lost(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Bucket.put

    def lost(self: Bucket, path: str, data: bytes, mode: Any = "overwrite") -> None:
        put(self, path, data, mode)
        if mode != "overwrite":
            raise FileExistsError

    monkeypatch.setattr(Bucket, "put", lost)
    built = [publish(bucket, value) for value in (1, 2)]
    assert not any(artifact.reused for artifact in built)
    assert bucket.current("thing", "all") == built[1]
    assert bucket.prune(keep_seconds=-3_600) == [built[0].address]


def test_a_removed_folder_of_copies_is_no_damage(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(bucket)
    opened = elsewhere(bucket).current("thing", "all")
    real = Bucket._chunks

    def remove_and_download(self: Bucket, path: str) -> Any:
        shutil.rmtree(copy_of(opened))
        return real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "_chunks", remove_and_download)
        with pytest.raises(StoreWriteError, match=r"cache\.folder"):
            opened.file("more")
    assert opened.file("more").read_text() == "more" and publish(bucket).reused


def test_a_copy_that_changed_is_read_again(bucket: Store) -> None:
    publish(bucket).file("more").write_text("flip")
    assert bucket.current("thing", "all").file("more").read_text() == "more"
    assert publish(bucket).reused


def test_copies_that_were_not_opened_for_long_are_pruned(bucket: Store) -> None:
    old, new = publish(bucket), publish(bucket, 2)
    for path in (bucket.root / ".copies").rglob("*"):
        os.utime(path, (0, 0))
    assert new.file("more").exists(), "verified, since its times changed"
    for path in (copy_of(new), copy_of(new) / ".digests.jsonl"):
        os.utime(path, (0, 0))
    assert new.file("more").read_text() == "more"
    assert bucket.prune() == [str(copy_of(old))] and copy_of(new).exists()
    assert bucket.open("thing", "all", old.fingerprint).file("more").read_text() == "more"


def test_a_look_gives_up_before_a_tick_is_cut_off(bucket: Store, server: BucketServer) -> None:
    tick_seconds = 60  # Dagster's
    looked = bucket.look()
    assert looked.backend.retry_seconds < tick_seconds / 2 < bucket.backend.retry_seconds
    object.__setattr__(looked.backend, "retry_seconds", 0.5)
    server.spoil = failing
    with pytest.raises(SourceUnavailable):
        looked.keys("thing")
    server.requests.clear()
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            looked.current("thing", "all")
    assert server.requests == [], "it is waited for once"
    server.spoil = lambda _: None
    assert bucket.look().keys("thing") == []


def test_a_look_asks_for_what_changed(bucket: Store, server: BucketServer) -> None:
    for key in ("a", "b/c"):
        bucket.build(inputs(key=key), write)
    bucket.write_note("looks/a", "seen")

    def look() -> list[str]:
        server.requests.clear()
        look = bucket.look()
        assert look.keys("thing") == ["a", "b/c"]
        assert {look.current("thing", key).counts["rows"] for key in look.keys("thing")} == {1}
        assert look.read_note("looks/a") == "seen"
        objects = [path for _, path in server.requests if path != "/artifacts"]
        assert len(server.requests) - len(objects) == 1, "one listing"
        return sorted(path.rpartition("/")[2] for path in objects)

    assert look() == ["a", *["current"] * 2, *["manifest.json"] * 2, "store.json"]
    assert look() == []
    bucket.build(inputs(2, key="a"), write)
    assert look() == ["current", "manifest.json"]
    parse_manifest.cache_clear()
    assert look() == []


def test_a_build_whose_objects_were_removed_publishes_nothing(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Bucket.create

    def after_prune(self: Bucket, path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):  # it was suspended for days before
            for more in [path for path in paths(bucket) if path.endswith("more")]:
                bucket.backend.discard(more.rpartition("/")[0])
        create(self, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "create", after_prune)
        with pytest.raises(StoreWriteError, match="run again"):
            publish(bucket)
    assert not bucket.versions("thing", "all") and not bucket.has("thing", "all")
    assert publish(bucket).file("more").read_text() == "more"


def test_a_server_that_fails_for_a_while_delays_a_build(
    bucket: Store, server: BucketServer
) -> None:
    failures = iter([1] * 5)
    server.spoil = lambda asked: failing(asked) if next(failures, 0) else None
    artifact = publish(bucket)
    assert next(failures, None) is None
    assert artifact.file("more").read_text() == "more"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        ("503 Slow Down", "SlowDown", SourceUnavailable),
        ("400 Bad Request", "ExpiredToken", InputError),
        ("403 Forbidden", "AccessDenied", InputError),
    ],
)
def test_an_upload_that_cannot_go_on_is_one_line_and_loses_nothing(
    bucket: Store, server: BucketServer, status: str, code: str, error: type[Exception]
) -> None:
    bucket.backend = replace(bucket.backend, retry_seconds=0.5)
    uploads = itertools.count()
    server.spoil = lambda environ: (
        (status, code) if "/_" in environ["PATH_INFO"] and next(uploads) else None
    )
    with pytest.raises(error, match=rf"^.*{code}.*\Z"):
        publish(bucket)
    server.spoil = lambda _: None
    assert bucket.versions("thing", "all") == []
    assert bucket.build(inputs(), refuse).file("more").read_text() == "more"


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
    publish(bucket)
    child = os.fork()
    if child == 0:
        with suppress(ReactError):
            bucket.current("thing", "all")
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
