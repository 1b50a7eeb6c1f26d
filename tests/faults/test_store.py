"""FAULTS 1 to 5, 39, 40, 50: killed, full disk, two at once, flipped bits, cut files, no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.processes import die, forked
from support.things import elsewhere, inputs, publish, write

from react_pipeline.store import (
    CorruptArtifact,
    Scratch,
    Store,
    StoreWriteError,
    durable,
    write_atomically,
)

KILLED_AT = {
    "in the middle of writing": "pathlib.Path.write_text",
    "before the files are on disk": "react_pipeline.store.scratch.fsync_tree",
    "before the manifest": "react_pipeline.store.store.with_digest",
    "before the files are in the store": "react_pipeline.store.folder.Folder.finish",
    "before the manifest is in the store": "react_pipeline.store.folder.Folder.create",
    "after publishing": "react_pipeline.store.store.Store.set_current",
}


@pytest.mark.parametrize("when", KILLED_AT)
def test_killed_at_any_step_nothing_unfinished_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:  # 1
    publish(Store(tmp_path), stage="earlier")

    def build() -> None:
        monkeypatch.setattr(KILLED_AT[when], die)
        publish(Store(tmp_path))

    process = forked(build, tmp_path / "end")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.keys("thing") == []
    published = [inputs().fingerprint] if when == "after publishing" else []
    assert store.versions("thing", "all") == published
    artifact = publish(store)
    assert store.current("thing", "all") == artifact
    assert artifact.path and all(error is None for _, error in store.verify())
    monkeypatch.setattr("react_pipeline.store.pruning.RETENTION_SECONDS", -3_600)
    store.prune(keep_seconds=-3_600)
    assert store.current("thing", "all").path == artifact.path
    left = {path.name for path in artifact.path.parent.iterdir()}
    assert left == {artifact.path.name, "manifest.json"}


def test_scratch_is_private_and_outlives_an_interrupted_build(store: Store) -> None:  # 1
    states: list[str] = []

    def resume(directory: Path, scratch: Scratch) -> dict[str, int]:
        path = scratch.keep("state", lambda path: path.write_text(f"{len(states)} tries"))
        states.append(path.read_text())
        if len(states) < 3:
            raise KeyboardInterrupt
        return write(directory)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.build(inputs(), resume)
    artifact = store.build(inputs(), resume)
    assert states == ["0 tries"] * 3
    assert {path.name for path in artifact.path.glob("[!.]*")} == {"sub", "more", "manifest.json"}
    assert not list((store.root / ".scratch").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_names_path_and_bytes_and_publishes_nothing(tmp_path: Path) -> None:  # 2
    store = Store(tmp_path)

    def write(directory: Path, _: object) -> dict[str, int]:
        (directory / "a.bin").write_bytes(b"a" * 12345)
        (directory / "b.bin").symlink_to("/dev/full")
        with (directory / "b.bin").open("wb") as full:
            full.write(b"b" * 100_000)
        return {}

    with pytest.raises(StoreWriteError, match=r"[\d,]+ bytes that are free") as error:
        store.build(inputs(), write)
    assert "No space left" in str(error.value)
    assert store.keys("thing") == []


@pytest.mark.parametrize("locks", ["always granted", "refused"])
def test_without_locks_who_is_late_uses_the_first_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:  # 3, 39
    def flock(*_: object) -> None:
        if locks == "refused":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    other = elsewhere(store)

    def overtaken(directory: Path, _: object) -> dict[str, int]:
        other.build(inputs(), lambda path, _: write(path, text="theirs"))
        return write(directory, text="mine")

    artifact = store.build(inputs(), overtaken)
    assert artifact.reused and artifact.file("sub/data").read_text() == "theirs"
    assert store.current("thing", "all") == artifact == other.current("thing", "all")
    paths = {entry.path for entry in store.backend.entries("thing")}
    assert len({path.split("/")[3] for path in paths if "/_" in path}) == 1
    assert not list((store.root / ".scratch").iterdir())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda data: data[:-1] + b"c",
    "cut": lambda data: data[:-1],
    "manifest": lambda data: data.replace(b'"rows": 1', b'"rows": 2'),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "remove"])
def test_damaged_artifacts_are_refused_by_name_and_rebuilt(
    store: Store, damage: str
) -> None:  # 4, 5
    good, artifact = publish(store, 2), publish(store)
    path = f"{artifact.place}/manifest.json" if damage == "manifest" else f"{artifact.prefix}/more"
    if damage == "remove":
        store.backend.delete(path)
    else:
        store.backend.put(path, DAMAGES[damage](store.backend.read(path)))
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        elsewhere(store).current("thing", "all").file("more")
    errors = dict(store.verify())
    assert errors[good.address] is None and errors[artifact.address]
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.look().current("thing", "all")
    assert not publish(elsewhere(store)).reused
    assert elsewhere(store, "third").current("thing", "all").file("more").read_text() == "more"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_an_unreadable_artifact_is_refused_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:  # 50
    store = Store(tmp_path)
    publish(store)

    failing = Mock(side_effect=OSError(number, os.strerror(number)))
    with monkeypatch.context() as patched:
        patched.setattr(durable, "sha256_of", failing)
        durable._known.cache_clear()
        next(store.root.glob("thing/all/*/_*/.digests.jsonl")).unlink()
        with pytest.raises(CorruptArtifact, match=os.strerror(number)):
            store.current("thing", "all").file("more")
    assert publish(store).reused == (number == errno.EMFILE)


def test_temporary_names_differ_between_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 40
    names: set[str] = set()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(durable, "rename_synced", lambda written, _: names.add(written.name))
    for _ in range(2):
        write_atomically(tmp_path / "file", "text")
    assert len(names) == 2


def test_a_lock_is_free_although_a_fork_still_has_its_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with durable.locked(tmp_path / "one") as held:
        assert held
        if not (child := os.fork()):
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with (tmp_path / "one").open() as file:
            assert durable.lock(file, wait=False)
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
