"""FAULTS 1 to 5, 39, 40, 50: killed, full disk, two at once, flipped bits, cut files, no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from react_pipeline.store import (
    CorruptArtifact,
    Inputs,
    Scratch,
    Store,
    StoreWriteError,
    durable,
    write_atomically,
)

INPUTS = Inputs("thing", "all", {"value": 1}, {}, "1")


def write_two(directory: Path, _: object) -> dict[str, float]:
    (directory / "a.bin").write_bytes(b"a" * 1000)
    (directory / "b.bin").write_bytes(b"b" * 1000)
    return {"top1": 0.5}


KILLED_AT = {
    "in the middle of writing": "kill_in_write = True",
    "before the files are on disk": "patch(scratch, 'fsync_tree')",
    "before the manifest": "patch(store, 'with_digest')",
    "before the files are in the store": "patch(folder.Folder, 'finish')",
    "before the manifest is in the store": "patch(folder.Folder, 'create')",
    "after publishing": "patch(store.Store, 'set_current')",
}


@pytest.mark.parametrize("when", KILLED_AT)
def test_killed_at_any_step_nothing_unfinished_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:  # 1
    script = f"""
import os, signal
from pathlib import Path
from react_pipeline.store import artifacts, folder, scratch, store
kill_in_write = False
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def patch(owner, name): setattr(owner, name, die)
def write(directory, _):
    (directory / "a.bin").write_bytes(b"a" * 1000)
    if kill_in_write: die()
    (directory / "b.bin").write_bytes(b"b" * 1000)
    return {{}}
inputs = artifacts.Inputs("thing", "all", {{"value": 1}}, {{}}, "1")
built = store.Store(Path({str(tmp_path)!r}))
built.backend.create("store.json", store._FORMAT)
{KILLED_AT[when]}
built.build(inputs, write)
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.keys("thing") == []
    published = [INPUTS.fingerprint] if when == "after publishing" else []
    assert store.versions("thing", "all") == published
    artifact = store.build(INPUTS, write_two)
    assert store.current("thing", "all") == artifact
    assert artifact.path and all(error is None for _, error in store.verify())
    monkeypatch.setattr("react_pipeline.store.pruning.RETENTION_SECONDS", -1)
    store.prune(keep_seconds=-1)
    assert store.current("thing", "all").path == artifact.path
    left = {path.name for path in artifact.path.parent.iterdir()}
    assert left == {artifact.path.name, "manifest.json"}


def test_scratch_is_private_and_outlives_an_interrupted_build(store: Store) -> None:  # 1
    states: list[str] = []

    def write(directory: Path, scratch: Scratch) -> dict[str, float]:
        path = scratch.keep("state", lambda path: path.write_text(f"{len(states)} tries"))
        states.append(path.read_text())
        if len(states) < 3:
            raise KeyboardInterrupt
        return write_two(directory, None)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.build(INPUTS, write)
    artifact = store.build(INPUTS, write)
    assert states == ["0 tries"] * 3
    assert sorted(path.name for path in artifact.path.glob("[!.]*")) == [
        "a.bin",
        "b.bin",
        "manifest.json",
    ]
    assert not list((store.root / ".scratch").iterdir())


def test_an_interrupted_small_write_keeps_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 1
    path = tmp_path / "current"
    write_atomically(path, "old")
    monkeypatch.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"


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
        store.build(INPUTS, write)
    assert "No space left" in str(error.value)
    assert store.keys("thing") == []


@pytest.mark.parametrize("locks", ["always granted", "refused"])
def test_without_locks_who_is_late_uses_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:  # 3, 39
    def flock(*_: object) -> None:
        if locks == "refused":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    other = Store(tmp_path)

    def overtaken(directory: Path, _: object) -> dict[str, float]:
        other.build(INPUTS, write_two)
        return {**write_two(directory, None), "top1": 0.9}

    store = Store(tmp_path)
    artifact = store.build(INPUTS, overtaken)
    assert artifact.reused and artifact.counts == {"top1": 0.5}
    assert store.current("thing", "all") == artifact
    assert len(list(artifact.path.parent.glob("_*"))) == 1
    assert not list((tmp_path / ".scratch").iterdir())


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": changed(lambda data: data[:-1] + b"c"),
    "cut": changed(lambda data: data[:-1]),
    "remove": Path.unlink,
    "manifest": changed(lambda data: data[:-20]),
    "figure": changed(lambda data: data.replace(b'"top1": 0.5', b'"top1": 0.9')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_artifacts_are_refused_by_name_and_rebuilt(
    tmp_path: Path, damage: str
) -> None:  # 4, 5
    store = Store(tmp_path)
    artifact = store.build(INPUTS, write_two)
    path = artifact.path / "b.bin"
    manifest = artifact.path.parent / "manifest.json"
    DAMAGES[damage](manifest if damage in ("manifest", "figure") else path)
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.current("thing", "all").file("b.bin")
    assert not store.build(INPUTS, write_two).reused
    assert store.current("thing", "all").file("b.bin").read_bytes() == b"b" * 1000


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_an_unreadable_artifact_is_refused_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:  # 50
    store = Store(tmp_path)
    store.build(INPUTS, write_two)

    failing = Mock(side_effect=OSError(number, os.strerror(number)))
    with monkeypatch.context() as patched:
        patched.setattr(durable, "sha256_of", failing)
        durable._known.cache_clear()
        next(store.root.glob("thing/all/*/_*/.digests.jsonl")).unlink()
        with pytest.raises(CorruptArtifact, match=os.strerror(number)):
            store.current("thing", "all").file("b.bin")
    assert store.build(INPUTS, write_two).reused == (number == errno.EMFILE)


def test_temporary_names_differ_between_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 40
    names, replace = [], Path.replace

    def noted(path: Path, target: Path) -> Path:
        names.append(path.name)
        return replace(path, target)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(Path, "replace", noted)
    for _ in range(2):
        write_atomically(tmp_path / "file", "text")
    assert len(set(names)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_free_although_a_fork_still_has_its_file(tmp_path: Path) -> None:
    store, (reader, writer) = Store(tmp_path), os.pipe()
    with store.locked("one", wait=False) as held:
        assert held
        if not (child := os.fork()):
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with store.locked("one", wait=False) as held:
            assert held
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
