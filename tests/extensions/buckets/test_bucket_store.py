"""FAULTS 1, 3, 4, 37, 45, 53 where artifacts are objects: leases, conditional writes, copies, looks
and pruning.
"""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.bucket import BucketServer

from react_pipeline.extensions.buckets import bucket_pruning, bucket_store, copies, leases
from react_pipeline.extensions.buckets import look as looks
from react_pipeline.extensions.buckets.bucket import (
    Bucket,
    ConflictError,
    Stored,
    Version,
    _explained,
)
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.extensions.buckets.bucket_store import BucketStore
from react_pipeline.extensions.buckets.leases import Lease
from react_pipeline.store.artifacts import Artifact, Inputs, slug_of
from react_pipeline.store.errors import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    SourceUnavailable,
    StoreWriteError,
)


def inputs(value: int = 1, key: str = "all", **parents: Artifact) -> Inputs:
    return Inputs("thing", key, {"value": value}, parents, "1")


def write(directory: Path, text: str = "data") -> dict[str, int]:
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "sub" / "data").write_text(text)
    (directory / "more").write_text("more")
    return {"rows": 1}


def refuse(_: Path) -> dict[str, int]:
    raise AssertionError("built twice")


def publish(store: BucketStore, value: int = 1) -> BucketArtifact:
    artifact = store.build(inputs(value), write)
    assert isinstance(artifact, BucketArtifact)
    return artifact


def other_host(store: BucketStore, name: str = "there") -> BucketStore:
    return BucketStore(store.bucket.url, store.root.parent / name, 1e9)


def paths(store: BucketStore) -> list[str]:
    return [stored.path for stored in store.bucket.objects("thing")]


def test_the_manifest_is_written_after_all_files(bucket: BucketStore, server: BucketServer) -> None:
    server.requests.clear()
    artifact = publish(bucket)
    puts = [path.partition("thing/")[2] for method, path in server.requests if method == "PUT"]
    files = {f"{artifact.prefix}/{name}".removeprefix("thing/") for name in ("sub/data", "more")}
    manifest = f"all/{artifact.fingerprint}/manifest.json"
    assert puts.index(manifest) > max(puts.index(name) for name in files)
    assert puts.index("all/current") > puts.index(manifest)


def test_a_first_build_warns_of_nothing(
    bucket: BucketStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert not publish(bucket).reused and not caplog.records


def test_another_host_opens_artifacts_file_by_file(
    bucket: BucketStore, server: BucketServer
) -> None:
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


def test_an_artifact_goes_to_another_process(bucket: BucketStore) -> None:
    assert pickle.loads(pickle.dumps(publish(bucket))).file("more").read_text() == "more"  # noqa: S301


def test_of_two_hosts_one_builds_and_the_other_waits(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_store, "POLL_SECONDS", 0.02)
    building, refused = threading.Event(), threading.Event()
    takes: list[bool] = []
    take = Lease.take

    def recorded(self: Lease, *, alone: bool, bucket: Bucket | None = None) -> bool:
        takes.append(take(self, alone=alone, bucket=bucket))
        if not takes[-1]:
            refused.set()
        return takes[-1]

    monkeypatch.setattr(Lease, "take", recorded)

    def slowly(directory: Path) -> dict[str, int]:
        building.set()
        assert refused.wait(180)
        return write(directory)

    results: list[Artifact] = []
    first = threading.Thread(target=lambda: results.append(bucket.build(inputs(), slowly)))
    first.start()
    assert building.wait(180)
    assert other_host(bucket).is_building("thing", "all", inputs().fingerprint)
    second = other_host(bucket).build(inputs(), refuse)
    first.join()
    assert second == results[0]
    assert (second.reused, results[0].reused) == (True, False)


def test_builders_that_do_not_see_each_other_publish_one(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "take", lambda self, **_: True)
    there = other_host(bucket)

    def overtaken(directory: Path) -> dict[str, int]:
        there.build(inputs(), lambda path: write(path, "theirs"))
        return write(directory, "mine")

    loser = bucket.build(inputs(), overtaken)
    assert loser == there.current("thing", "all") == bucket.current("thing", "all")
    assert loser.reused
    assert loser.file("sub/data").read_text() == "theirs"
    assert len(paths(bucket)) == 4, "the loser's objects are gone"


def test_the_answer_to_a_won_write_may_be_lost(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, replace = type(bucket.bucket).create, type(bucket.bucket).replace

    def answer_lost(real: Callable[..., object]) -> Callable[..., None]:
        def call(*given: object) -> None:
            real(*given)
            raise ConflictError

        return call

    monkeypatch.setattr(type(bucket.bucket), "create", answer_lost(create))
    monkeypatch.setattr(type(bucket.bucket), "replace", answer_lost(replace))
    built = [publish(bucket, value) for value in (1, 2)]
    assert [artifact.reused for artifact in built] == [False, False]
    assert bucket.current("thing", "all") == built[1]


def test_a_lease_runs_out_by_the_clock_of_the_server(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Lease(other_host(bucket).bucket, "name", "elsewhere")
    assert theirs.take(alone=True)
    monkeypatch.setattr("time.time", lambda: 4e9)
    with bucket.locked("name", wait=False) as held:
        assert not held
    monkeypatch.setattr(leases, "LEASE_SECONDS", -1)
    with bucket.locked("name", wait=False) as held:
        assert held
    monkeypatch.undo()
    with bucket.locked("name", wait=False) as held:
        assert held


def test_a_killed_process_of_this_machine_delays_nobody(bucket: BucketStore) -> None:
    bucket.root.joinpath("building").mkdir(parents=True)
    assert Lease(bucket.bucket, "name", bucket._place).take(alone=True)
    with other_host(bucket).locked("name", wait=False) as held:
        assert not held
    with bucket.locked("name", wait=False) as held:
        assert held


def test_a_holder_that_was_overtaken_takes_nothing_back(bucket: BucketStore) -> None:
    mine, theirs = (Lease(bucket.bucket, "name", place) for place in ("here", "there"))
    assert mine.take(alone=True)
    with mine.kept():
        bucket.bucket.delete([mine.path])
        assert theirs.take(alone=True)
    assert not Lease(bucket.bucket, "name", "third").take(alone=True)


def test_a_heartbeat_keeps_the_lease_and_repairs_it(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(bucket.bucket, "name", "here")
    assert lease.take(alone=True)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.0)
    lease.beat()
    first = lease.version
    lease.beat()
    assert lease.version not in (None, first)
    bucket.bucket.delete([lease.path])
    lease.beat()
    assert bucket.bucket.read(lease.path)[1].version == lease.version


def test_a_lease_keeps_beating_after_a_bad_moment(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a beat is lost, and then the server is away."""
    kind = type(bucket.bucket)
    replace, read = kind.replace, kind.read
    retries: list[float] = []
    errors = [SourceUnavailable("away"), FileNotFoundError(), ConflictError()]
    repaired = threading.Event()

    def lost(self: Bucket, path: str, content: bytes, version: Version) -> Version:
        written = replace(self, path, content, version)
        if errors:
            raise ConflictError
        repaired.set()
        return written

    def away(self: Bucket, path: str) -> tuple[bytes, Stored]:
        retries.append(self.retry_seconds)
        if errors:
            raise errors.pop(0)
        return read(self, path)

    lease = Lease(bucket.bucket, "name", "here")
    assert lease.take(alone=True)
    monkeypatch.setattr(kind, "replace", lost)
    monkeypatch.setattr(kind, "read", away)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    with lease.kept():
        assert repaired.wait(180)
    assert set(retries) == {bucket.bucket.brief.retry_seconds}
    assert Lease(bucket.bucket, "name", "there").take(alone=True), "given back"


def test_a_late_beat_creates_no_lease_again(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(bucket.bucket)
    replace, delete = kind.replace, kind.delete
    beating, deleted = threading.Event(), threading.Event()

    def late(self: Bucket, path: str, content: bytes, version: Version) -> Version:
        beating.set()
        deleted.wait(0.3)
        return replace(self, path, content, version)

    def give_back(self: Bucket, names: Iterable[str]) -> None:
        delete(self, names)
        deleted.set()

    lease = Lease(bucket.bucket, "name", "here")
    assert lease.take(alone=True)
    monkeypatch.setattr(kind, "replace", late)
    monkeypatch.setattr(kind, "delete", give_back)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    with lease.kept():
        assert beating.wait(180)
    assert lease.path not in {thread.name for thread in threading.enumerate()}
    assert Lease(bucket.bucket, "name", "there").take(alone=True)


def test_a_condition_on_an_object_that_is_gone_is_a_conflict(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GCS and Azure answer 404; the library makes a conflict of that for S3 only."""
    version = bucket.bucket.create("name", b"1")
    monkeypatch.setattr(type(bucket.bucket), "_put", Mock(side_effect=FileNotFoundError))
    with pytest.raises(ConflictError):
        bucket.bucket.replace("name", b"2", version)


def test_bytes_that_differ_are_refused_and_made_again(bucket: BucketStore) -> None:  # 4
    artifact = publish(bucket)
    bucket.bucket.write(f"{artifact.prefix}/more", b"flip")
    opened = other_host(bucket).current("thing", "all")
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        opened.file("more")
    again = other_host(bucket).build(inputs(), write)
    assert not again.reused
    assert other_host(bucket, "third").current("thing", "all").file("more").read_text() == "more"


def test_an_object_that_is_missing_is_made_again(bucket: BucketStore) -> None:
    artifact = publish(bucket)
    bucket.bucket.delete([f"{artifact.prefix}/more"])
    with pytest.raises(CorruptArtifact, match="more is gone"):
        other_host(bucket).current("thing", "all").file("more")
    with pytest.raises(CorruptArtifact, match="more is missing"):
        bucket.look().current("thing", "all")
    assert not publish(bucket).reused


def test_a_removed_folder_of_copies_is_no_damage(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    opened = other_host(bucket).current("thing", "all")
    real = type(bucket.bucket).download

    def remove_and_download(self: Any, path: str, file: Path) -> str:
        shutil.rmtree(file.parent)
        return real(self, path, file)

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket.bucket), "download", remove_and_download)
        with pytest.raises(StoreWriteError, match="cache.folder"):
            opened.file("more")
    assert opened.file("more").read_text() == "more"
    assert publish(bucket).fingerprint == artifact.fingerprint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"attempt": "_a", "manifest": {}}'])
def test_a_damaged_manifest_is_refused_and_made_again(
    bucket: BucketStore, content: bytes
) -> None:  # 46
    artifact = publish(bucket)
    publish(bucket, 2)
    bucket.bucket.write(f"thing/all/{artifact.fingerprint}/manifest.json", content)
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        bucket.open("thing", "all", artifact.fingerprint)
    assert bucket.prune(keep_seconds=-1) == []
    assert sum(error is not None for _, error in bucket.verify()) == 1
    assert not publish(bucket).reused


def test_verify_reads_the_bucket_and_not_the_copies(bucket: BucketStore) -> None:
    good, bad = publish(bucket), publish(bucket, 2)
    bucket.bucket.write(f"{bad.prefix}/more", b"flip")
    errors = dict(bucket.verify())
    assert errors.keys() == {good.address, bad.address}
    assert errors[good.address] is None
    assert "rematerialize `thing`" in str(errors[bad.address])


def test_a_copy_that_changed_is_fetched_again(bucket: BucketStore) -> None:
    artifact = publish(bucket)
    artifact.file("more").write_text("flip")
    assert artifact.file("more").read_text() == "more"


def test_a_copy_that_did_not_change_is_not_read_again(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    monkeypatch.setattr(copies, "sha256_of", refuse)
    assert artifact.file("more").read_text() == "more"


def test_copies_not_in_use_are_evicted_and_come_back(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = publish(bucket), publish(bucket, 2)
    with old.file("more").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
        assert bucket.copies.evict(0) == [], "this process has both open"
        forget(monkeypatch)
        os.utime(bucket.copies.root / old.attempt, (0, 0))
        size = sum(path.stat().st_size for path in bucket.copies.root.glob("_*/**/*"))
        assert bucket.copies.evict(size - 1) == [old.attempt]
        assert m[:] == b"more"
    assert new.file("more").exists()
    assert old.file("more").read_text() == "more"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process that opened the copies had ended."""
    for user in copies._users.values():
        user.close()
    monkeypatch.setattr(copies, "_users", {})
    monkeypatch.setattr(copies, "_opened", set())


def test_the_limit_counts_what_every_process_adds(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process adds 8 bytes, and copies are measured after 12."""
    existing = []
    folders: list[Path] = []
    for value in range(3):
        forget(monkeypatch)
        process = BucketStore(bucket.bucket.url, bucket.root, cache_bytes=600)
        folders.append(publish(process, value).folder)
        existing.append([folder.exists() for folder in folders])
    assert existing[1] == [True, True]
    assert existing[2][0] is False
    assert existing[2][2] is True


def test_prune_evicts_copies_above_the_limit(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    forget(monkeypatch)
    bucket.prune()
    bucket.copies.limit_bytes = 0
    bucket.prune(dry_run=True)
    assert artifact.folder.exists()
    bucket.prune()
    assert not artifact.folder.exists()


def test_a_copy_in_use_by_another_process_is_not_evicted(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
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
    try:
        assert child.stdout.readline() == b"open\n"
        forget(monkeypatch)
        assert bucket.copies.evict(0) == []
    finally:
        child.kill()
        child.communicate()
    assert bucket.copies.evict(0) == [artifact.attempt]


def test_a_copy_that_is_opened_during_an_eviction_is_there(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    forget(monkeypatch)
    opened: list[Path] = []
    opening = threading.Thread(target=lambda: opened.append(artifact.file("more")))
    measure = copies._bytes_below

    def meet(folder: Path) -> int:
        if opening.ident is None:
            opening.start()
            opening.join(0.3)  # it waits for the eviction
        return measure(folder)

    monkeypatch.setattr(copies, "_bytes_below", meet)
    assert bucket.copies.evict(0) == [artifact.attempt]
    opening.join()
    assert opened[0].read_text() == "more"


def test_a_look_gives_up_before_a_tick_is_cut_off(
    bucket: BucketStore, server: BucketServer
) -> None:
    tick_seconds = 60  # Dagster's
    assert bucket.look().bucket.retry_seconds < tick_seconds / 2 < bucket.bucket.retry_seconds
    looked = bucket.look()
    object.__setattr__(looked.bucket, "retry_seconds", 0.5)
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


def test_a_look_asks_for_what_changed(bucket: BucketStore, server: BucketServer) -> None:
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

    assert sorted(look()) == ["a", "manifest.json", "manifest.json"]
    assert look() == []
    bucket.build(inputs(2, "a"), write)
    assert look() == ["manifest.json"]
    looks._parsed.clear()
    assert look() == []


def test_prune_removes_the_manifest_before_the_objects(
    bucket: BucketStore, server: BucketServer
) -> None:
    old, new = publish(bucket), publish(bucket, 2)
    states: list[list[str]] = []
    place = f"{bucket.bucket.url.removeprefix('s3://artifacts/')}/thing/all/{old.fingerprint}/"

    def record(environ: dict[str, object]) -> None:
        if environ["REQUEST_METHOD"] == "POST":
            states.append([key for key in server.stored_keys() if key.startswith(place)])

    server.spoil = record
    assert bucket.prune(keep_seconds=-1) == [old.address]
    files = [f"{place}{old.attempt}/{name}" for name in ("more", "sub/data")]
    assert [*files, f"{place}manifest.json"] in states
    assert files in states
    assert all(new.fingerprint in path or path.endswith("current") for path in paths(bucket))


def test_prune_leaves_what_became_current_since_it_looked(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(bucket)
    publish(bucket, 2)
    real = bucket_pruning.relied_on

    def after_a_build(*given: object) -> set[str]:
        found = real(*given)
        publish(other_host(bucket))
        return found

    monkeypatch.setattr(bucket_pruning, "relied_on", after_a_build)
    assert bucket.prune(keep_seconds=-1) == []
    assert bucket.current("thing", "all") == old


def test_prune_leaves_what_was_current_within_the_time(bucket: BucketStore) -> None:
    old = publish(bucket)
    publish(bucket, 2)
    assert bucket.prune() == []
    assert bucket.prune(keep_seconds=-1) == [old.address]


@pytest.mark.parametrize("content", [b"", b"0123456789abcdef", b"\0\0\0"])
def test_a_damaged_pointer_dooms_nothing(bucket: BucketStore, content: bytes) -> None:
    publish(bucket), publish(bucket, 2)
    bucket.bucket.write("thing/all/current", content)
    assert bucket.prune(keep_seconds=-1) == []


def test_uploads_without_a_manifest_are_removed_when_old(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(bucket)
    place = f"thing/all/{artifact.fingerprint}"
    bucket.bucket.write(f"{place}/_dead/more", b"more")
    assert bucket.prune(keep_seconds=-1) == []
    monkeypatch.setattr(bucket_pruning, "ORPHAN_SECONDS", -1)
    with other_host(bucket).locked(f"thing--all--{artifact.fingerprint}"):
        assert bucket.prune(keep_seconds=-1) == [], "a build may be about to publish it"
    assert bucket.prune(keep_seconds=-1) == [bucket.bucket.address(f"{place}/_dead")]
    assert bucket.current("thing", "all").file("more").exists()


def test_a_build_whose_objects_were_removed_publishes_nothing(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended for an hour before its last request."""
    create = type(bucket.bucket).create

    def after_prune(self: object, path: str, content: bytes) -> object:
        if path.endswith("manifest.json"):
            bucket.bucket.delete([one for one in paths(bucket) if "/_" in one])
        return create(self, path, content)

    with monkeypatch.context() as patched:
        patched.setattr(type(bucket.bucket), "create", after_prune)
        with pytest.raises(StoreWriteError, match="run again"):
            publish(bucket)
    assert paths(bucket) == []
    assert bucket.build(inputs(), refuse).file("more").read_text() == "more"


def test_a_build_that_lost_its_lease_publishes_nothing(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended after its upload, and `prune` of another host holds its lease."""
    upload = Bucket.upload
    theirs = Lease(bucket.bucket, slug_of("thing", "all", inputs().fingerprint), "there")

    def suspended(self: Bucket, path: str, file: Path) -> None:
        upload(self, path, file)
        bucket.bucket.write(theirs.path, theirs._content())

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "upload", suspended)
        with pytest.raises(StoreWriteError, match="run again"):
            publish(bucket)
    assert not any(path.endswith("manifest.json") for path in paths(bucket))
    with bucket.try_lock(theirs.name) as held:
        assert not held, "their lease is left alone"


def test_a_manifest_written_meanwhile_is_not_removed(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = publish(bucket)
    bucket.bucket.delete([f"{damaged.prefix}/more"])
    manifest = f"{damaged.prefix.rpartition('/')[0]}/manifest.json"
    require = BucketArtifact.require_objects
    other = bucket.bucket.read(manifest)[0].replace(damaged.attempt.encode(), b"_other")

    def overtaken(self: BucketArtifact, sizes: dict[str, int]) -> None:
        bucket.bucket.write(manifest, other)
        require(self, sizes)

    with monkeypatch.context() as patched:
        patched.setattr(BucketArtifact, "require_objects", overtaken)
        assert bucket._published(inputs()) is None
    assert bucket.bucket.read(manifest)[0] == other


def test_each_process_reads_the_clock_by_its_own_object(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clocks() -> list[str]:
        return [stored.path for stored in bucket.bucket.objects(".clock")]

    for process in (-1, -2, -1):
        with monkeypatch.context() as patched:
            patched.setattr("react_pipeline.extensions.buckets.bucket._process", None)
            patched.setattr("os.getpid", lambda process=process: process)
            bucket.bucket.now()
    monkeypatch.setattr("react_pipeline.extensions.buckets.bucket._process", None)
    assert len(clocks()) == 2
    bucket.prune()
    assert len(clocks()) == 3, "those of a living process stay"
    monkeypatch.setattr(bucket_pruning, "ORPHAN_SECONDS", -10)
    bucket.prune()
    assert clocks() == []


def test_a_store_of_another_format_is_refused(bucket: BucketStore) -> None:  # 33
    bucket.bucket.write("store.json", b'{"format": 1}')
    with pytest.raises(Exception, match="format"):
        publish(bucket)


def test_notes_are_seen_by_all_hosts(bucket: BucketStore) -> None:
    assert bucket.read_note("looks/x") is None
    bucket.write_note("looks/x", "text")
    assert other_host(bucket).read_note("looks/x") == "text"


def test_of_two_hosts_one_creates_a_note(bucket: BucketStore) -> None:
    assert bucket.create_note("after", "first")
    assert not other_host(bucket).create_note("after", "second")
    assert other_host(bucket).read_note("after") == "first"


def test_what_was_never_built_is_named(bucket: BucketStore) -> None:
    with pytest.raises(MissingArtifact, match="thing"):
        bucket.look().current("thing", "all")
    with pytest.raises(MissingArtifact, match="thing"):
        bucket.open("thing", "all", "0" * 16)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("thing/a/b/1f/_x/sub/data", ("thing/a/b", "1f", "_x/sub/data")),
        ("thing/a/b/1f/manifest.json", ("thing/a/b", "1f", "manifest.json")),
        (".notes/thing/a/1f/manifest.json", None),
        ("thing/a/current", None),
        ("thing/a/1f/other.json", None),
        ("thing/a/_x", None),
    ],
)
def test_only_objects_of_artifacts_have_a_place(
    path: str, place: tuple[str, str, str] | None
) -> None:
    assert looks._place_of(path) == (place or (path, "", ""))


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
