"""FAULTS 1, 3, 4, 37, 45 where artifacts are objects: conditional writes, copies and looks."""

from __future__ import annotations

import mmap
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.bucket import BucketServer

from react_pipeline.store import bucket as buckets
from react_pipeline.store import store as store_module
from react_pipeline.store.artifacts import Artifact, Inputs, parse_manifest
from react_pipeline.store.bucket import Bucket, ConflictError, Meta, _explained
from react_pipeline.store.errors import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    SourceUnavailable,
    StoreWriteError,
)
from react_pipeline.store.store import RETENTION_SECONDS, Store


def inputs(value: int = 1, key: str = "all", **parents: Artifact) -> Inputs:
    return Inputs("thing", key, {"value": value}, parents, "1")


def write(directory: Path, _: object = None, text: str = "data") -> dict[str, int]:
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "sub" / "data").write_text(text)
    (directory / "more").write_text("more")
    return {"rows": 1}


def refuse(*_: object) -> dict[str, int]:
    raise AssertionError("built twice")


def publish(store: Store, value: int = 1) -> Artifact:
    return store.build(inputs(value), write)


def bucket_of(store: Store) -> Bucket:
    assert isinstance(store.backend, Bucket)
    return store.backend


def other_host(store: Store, name: str = "there") -> Store:
    return Store(replace(bucket_of(store), home=store.root.parent / name))


def paths(store: Store) -> list[str]:
    return [entry.path for entry in store.backend.entries("thing")]


def copy_of(artifact: Artifact) -> Path:
    return artifact.root / ".copies" / artifact.manifest["attempt"]


def test_the_manifest_is_written_after_all_files(bucket: Store, server: BucketServer) -> None:
    server.requests.clear()
    artifact = publish(bucket)
    puts = [path.partition("thing/")[2] for method, path in server.requests if method == "PUT"]
    files = {f"{artifact.prefix}/{name}".removeprefix("thing/") for name in ("sub/data", "more")}
    manifest = f"all/{artifact.fingerprint}/manifest.json"
    assert puts.index(manifest) > max(puts.index(name) for name in files)
    assert puts.index("all/current") > puts.index(manifest)


def test_a_first_build_warns_of_nothing(bucket: Store, caplog: pytest.LogCaptureFixture) -> None:
    assert not publish(bucket).reused and not caplog.records


def test_another_host_opens_artifacts_file_by_file(bucket: Store, server: BucketServer) -> None:
    publish(bucket)
    server.requests.clear()
    opened = other_host(bucket).current("thing", "all")
    assert opened.counts == {"rows": 1}
    assert opened.file("sub/data").read_text() == "data"
    assert opened.file("sub/data").read_text() == "data"
    assert [path.rpartition("/")[2] for _, path in server.requests] == [
        "current",
        "manifest.json",
        "data",
    ]
    assert (opened.path / "more").read_text() == "more"
    assert (opened.path / "manifest.json").exists()


def test_an_artifact_goes_to_another_process(bucket: Store) -> None:
    assert pickle.loads(pickle.dumps(publish(bucket))).file("more").read_text() == "more"  # noqa: S301


def test_builders_of_two_hosts_publish_one(bucket: Store) -> None:
    there = other_host(bucket)

    def overtaken(directory: Path, _: object) -> dict[str, int]:
        there.build(inputs(), lambda path, _: write(path, text="theirs"))
        return write(directory, text="mine")

    loser = bucket.build(inputs(), overtaken)
    assert loser == there.current("thing", "all") == bucket.current("thing", "all")
    assert loser.reused
    assert loser.file("sub/data").read_text() == "theirs"
    assert len({path.split("/")[3] for path in paths(bucket) if "/_" in path}) == 1


@pytest.fixture
def answers_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each conditional write succeeds, and is told to be refused."""
    put = Bucket._put

    def lost(self: Bucket, path: str, data: bytes, condition: str | Meta) -> None:
        put(self, path, data, condition)
        if condition != "overwrite":
            raise ConflictError

    monkeypatch.setattr(Bucket, "_put", lost)


@pytest.mark.usefixtures("answers_lost")
def test_the_answer_to_a_won_write_may_be_lost(bucket: Store) -> None:
    built = [publish(bucket, value) for value in (1, 2)]
    assert [artifact.reused for artifact in built] == [False, False]
    assert bucket.current("thing", "all") == built[1]
    assert bucket.create_note("after-x", "text")
    assert bucket.prune(keep_seconds=-1) == [built[0].address]


def test_an_object_is_removed_once_and_can_be_there_again(bucket: Store) -> None:
    backend = bucket_of(bucket)
    assert backend.create("thing/a/manifest.json", b"1")
    assert not backend.remove("thing/a/manifest.json", b"2")
    assert [backend.remove("thing/a/manifest.json", b"1") for _ in range(2)] == [True, False]
    assert not list(backend.heads()) and not list(bucket.verify())
    with pytest.raises(FileNotFoundError):
        backend.read("thing/a/manifest.json")
    assert backend.create("thing/a/manifest.json", b"3")
    assert not backend.create("thing/a/manifest.json", b"4")
    assert backend.read("thing/a/manifest.json") == b"3"


def test_marks_of_removed_objects_go_when_old(bucket: Store) -> None:
    old = publish(bucket)
    publish(bucket, 2)
    bucket.prune(keep_seconds=-1)
    manifest = f"{old.place}/manifest.json"
    bucket.backend.sweep(RETENTION_SECONDS)
    assert manifest in paths(bucket)
    bucket.backend.sweep(-10)
    assert manifest not in paths(bucket)


def test_a_condition_on_an_object_that_is_gone_is_a_conflict(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GCS and Azure answer 404; the library makes a conflict of that for S3 only."""
    import obstore

    monkeypatch.setattr(obstore, "put", Mock(side_effect=FileNotFoundError))
    with pytest.raises(ConflictError):
        bucket_of(bucket)._put("name", b"2", {"e_tag": "1"})


def test_bytes_that_differ_are_refused_and_made_again(bucket: Store) -> None:  # 4
    artifact = publish(bucket)
    bucket.backend.put(f"{artifact.prefix}/more", b"flip")
    opened = other_host(bucket).current("thing", "all")
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        opened.file("more")
    again = other_host(bucket).build(inputs(), write)
    assert not again.reused
    assert other_host(bucket, "third").current("thing", "all").file("more").read_text() == "more"


def test_an_object_that_is_missing_is_made_again(bucket: Store) -> None:
    artifact = publish(bucket)
    bucket.backend.delete(f"{artifact.prefix}/more")
    with pytest.raises(CorruptArtifact, match="more is missing"):
        bucket.look().current("thing", "all")
    with pytest.raises(CorruptArtifact, match="more is gone"):
        other_host(bucket).current("thing", "all").file("more")
    assert not publish(bucket).reused


def test_a_removed_folder_of_copies_is_no_damage(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    opened = other_host(bucket).current("thing", "all")
    real = Bucket._chunks

    def remove_and_download(self: Bucket, path: str) -> Any:
        shutil.rmtree(copy_of(opened))
        return real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "_chunks", remove_and_download)
        with pytest.raises(StoreWriteError, match=r"cache\.folder"):
            opened.file("more")
    assert opened.file("more").read_text() == "more"
    assert publish(bucket).fingerprint == artifact.fingerprint and publish(bucket).reused


def test_verify_reads_the_bucket_and_not_the_copies(bucket: Store) -> None:
    good, bad = publish(bucket), publish(bucket, 2)
    bucket.backend.put(f"{bad.prefix}/more", b"flip")
    errors = dict(bucket.verify())
    assert errors.keys() == {good.address, bad.address}
    assert errors[good.address] is None
    assert "rematerialize `thing`" in str(errors[bad.address])
    assert not publish(bucket, 2).reused


def test_a_copy_that_changed_is_fetched_again(bucket: Store) -> None:
    publish(bucket).file("more").write_text("flip")
    assert bucket.current("thing", "all").file("more").read_text() == "more"
    assert publish(bucket).reused


def test_a_copy_that_did_not_change_is_not_read_again(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(bucket)
    monkeypatch.setattr(store_module, "sha256_of", refuse)
    assert bucket.current("thing", "all").file("more").read_text() == "more"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process that opened the copies had ended."""
    for home, process in {(home, process) for home, process, _ in buckets._used}:
        buckets._users(home, process).close()
    buckets._users.cache_clear()
    monkeypatch.setattr(buckets, "_used", set())


def make_room(backend: Bucket) -> None:
    buckets.make_room.__wrapped__(backend, 0)


def test_copies_not_in_use_are_evicted_and_come_back(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = publish(bucket), publish(bucket, 2)
    small = replace(bucket_of(bucket), cache_bytes=1)
    with old.file("more").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
        make_room(small)
        assert copy_of(old).exists() and copy_of(new).exists(), "this process has both open"
        forget(monkeypatch)
        assert new.store.current("thing", "all").path == copy_of(new)
        make_room(small)
        assert not copy_of(old).exists() and copy_of(new).exists()
        assert m[:] == b"more"
    opened = bucket.open("thing", "all", old.fingerprint)
    assert opened.file("more").read_text() == "more"


def test_a_copy_in_use_by_another_process_is_not_evicted(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    code = (
        "import pickle, sys; artifact = pickle.load(sys.stdin.buffer); artifact.file('more'); "
        "print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(pickle.dumps(artifact))
    child.stdin.flush()
    small = replace(bucket_of(bucket), cache_bytes=1)
    try:
        assert child.stdout.readline() == b"open\n"
        forget(monkeypatch)
        make_room(small)
        assert copy_of(artifact).exists()
    finally:
        child.kill()
        child.communicate()
    make_room(small)
    assert not copy_of(artifact).exists()


def test_a_look_gives_up_before_a_tick_is_cut_off(bucket: Store, server: BucketServer) -> None:
    tick_seconds = 60  # Dagster's
    looked = bucket.look()
    assert isinstance(looked.backend, Bucket)
    assert looked.backend.retry_seconds < tick_seconds / 2 < bucket_of(bucket).retry_seconds
    object.__setattr__(looked.backend, "retry_seconds", 0.5)
    server.spoil = lambda _: ("503 Slow Down", "SlowDown")
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
        bucket.build(inputs(1, key), write)
    bucket.write_note("looks/a", "seen")
    seen = other_host(bucket)

    def look() -> list[str]:
        server.requests.clear()
        look = seen.look()
        assert look.keys("thing") == ["a", "b/c"]
        assert {look.current("thing", key).counts["rows"] for key in look.keys("thing")} == {1}
        assert look.read_note("looks/a") == "seen"
        objects = [path for _, path in server.requests if path != "/artifacts"]
        assert len(server.requests) - len(objects) == 3, "listings: the top and its two folders"
        return [path.rpartition("/")[2] for path in objects]

    assert sorted(look()) == ["a", *["current"] * 2, *["manifest.json"] * 2]
    assert look() == []
    bucket.build(inputs(2, "a"), write)
    assert sorted(look()) == ["current", "manifest.json"]
    parse_manifest.cache_clear()
    assert look() == []


def test_an_artifact_of_a_look_can_be_read(bucket: Store) -> None:
    publish(bucket)
    assert other_host(bucket).look().current("thing", "all").file("more").read_text() == "more"


def test_prune_removes_the_manifest_before_the_objects(bucket: Store, server: BucketServer) -> None:
    old, new = publish(bucket), publish(bucket, 2)
    manifests: list[bool] = []

    def record(environ: dict[str, Any]) -> None:
        if environ["REQUEST_METHOD"] in ("POST", "DELETE") and "?delete" not in environ:
            server.spoil = lambda _: None
            manifests.append(old.fingerprint in bucket.versions("thing", "all"))
            server.spoil = record

    server.spoil = record
    assert bucket.prune(keep_seconds=-1) == [old.address]
    assert manifests and not any(manifests)
    left = [path for path in paths(bucket) if old.fingerprint in path]
    assert left == [f"{old.place}/manifest.json"], "a mark that it was removed"
    assert new.path


def removed_before(
    monkeypatch: pytest.MonkeyPatch, bucket: Store, remove: Callable[[str], object]
) -> None:
    """As if a build had been suspended for days before it writes its manifest."""
    create = Bucket.create

    def after_prune(self: Bucket, path: str, data: bytes) -> bool:
        if path.endswith("manifest.json"):
            prefixes = {path.rpartition("/")[0] for path in paths(bucket) if path.endswith("more")}
            for prefix in prefixes:
                remove(prefix)
        return create(self, path, data)

    monkeypatch.setattr(Bucket, "create", after_prune)


def test_a_build_whose_objects_were_removed_publishes_nothing(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        removed_before(patched, bucket, bucket.discard)
        with pytest.raises(StoreWriteError, match="run again"):
            publish(bucket)
    assert not bucket.versions("thing", "all") and not bucket.has("thing", "all")
    assert publish(bucket).file("more").read_text() == "more"


def test_a_store_of_another_format_is_refused(bucket: Store) -> None:  # 33
    bucket.backend.put("store.json", b'{"format": 2}')
    with pytest.raises(InputError, match="format"):
        publish(bucket)


def test_what_was_never_built_is_named(bucket: Store) -> None:
    with pytest.raises(MissingArtifact, match="thing"):
        bucket.look().current("thing", "all")
    with pytest.raises(MissingArtifact, match="thing"):
        bucket.open("thing", "all", "0" * 16)


def test_notes_are_seen_by_all_hosts(bucket: Store) -> None:
    assert bucket.read_note("looks/x") is None
    assert bucket.create_note("looks/x", "text")
    assert not other_host(bucket).create_note("looks/x", "text")
    assert other_host(bucket).read_note("looks/x") == "text"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ("Error performing GET http://169.254.169.254/latest", InputError, "no credentials"),
        ("MissingCredentials", InputError, "no credentials"),
        ("connection reset", SourceUnavailable, "does not answer"),
    ],
)
def test_what_a_library_says_is_explained(error: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        raise _explained("s3://artifacts/a", OSError(error))
