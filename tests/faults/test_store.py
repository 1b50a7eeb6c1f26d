"""FAULTS 1 to 6: killed, full disk, two at once, flipped bits, cut files, stale parents."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from react_pipeline.store.artifacts import Inputs, slug_of
from react_pipeline.store.attempts import LEASE, Attempt, attempts, new_attempt
from react_pipeline.store.durable import write_atomically
from react_pipeline.store.errors import CorruptArtifact, StoreWriteError
from react_pipeline.store.scratch import Scratch
from react_pipeline.store.store import Store

INPUTS = Inputs("thing", "all", {"value": 1}, {}, "1")
OTHER_INPUTS = Inputs("thing", "other", {"value": 1}, {}, "1")


def write_two(directory: Path, _: object) -> dict[str, float]:
    (directory / "a.bin").write_bytes(b"a" * 1000)
    (directory / "b.bin").write_bytes(b"b" * 1000)
    return {"top1": 0.5}


KILLED_AT = {
    "in the middle of writing": "kill_in_write = True",
    "before the manifest": "patch(store, 'manifest_of')",
    "before the files are on disk": "patch(store, 'fsync_tree')",
    "before the rename": "patch(store.Store, '_publish')",
    "after the rename": "patch(store.Store, '_set_current')",
}


@pytest.mark.parametrize("when", KILLED_AT)
def test_killed_at_any_step_nothing_unfinished_is_read(tmp_path: Path, when: str) -> None:  # 1
    script = f"""
import os, signal
from pathlib import Path
from react_pipeline.store import artifacts, store
kill_in_write = False
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def patch(owner, name): setattr(owner, name, die)
{KILLED_AT[when]}
def write(directory, _):
    (directory / "a.bin").write_bytes(b"a" * 1000)
    if kill_in_write: die()
    (directory / "b.bin").write_bytes(b"b" * 1000)
    return {{}}
inputs = artifacts.Inputs("thing", "all", {{"value": 1}}, {{}}, "1")
store.Store(Path({str(tmp_path)!r})).build(inputs, write)
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.keys("thing") == []
    if when == "after the rename":
        assert store.open("thing", "all", INPUTS.fingerprint).fingerprint == INPUTS.fingerprint
    else:
        assert not (tmp_path / "thing" / "all" / INPUTS.fingerprint).exists()
    artifact = store.build(INPUTS, write_two)
    assert store.current("thing", "all") == artifact
    assert store.prune(keep_seconds=0) == []


def test_scratch_outlives_a_failed_publication_unpublished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 1
    store = Store(tmp_path)
    found: list[str] = []

    def write(staging: Path, scratch: Scratch) -> dict[str, int]:
        state = scratch.folder / "state"
        found.append(state.read_text() if state.exists() else "")
        state.write_text(f"{len(found)} tries")
        assert store.prune(keep_seconds=0) == []  # as long as it is being built
        return write_two(staging, scratch)

    for function in ("manifest_of", "fsync_tree"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"react_pipeline.store.store.{function}", interrupted)
            store.build(INPUTS, write)
    artifact = store.build(INPUTS, write)
    assert found == ["", "1 tries", "2 tries"]
    assert sorted(path.name for path in artifact.path.iterdir()) == [
        "a.bin",
        "b.bin",
        "manifest.json",
    ]
    assert not list((tmp_path / ".staging").iterdir())


def test_remains_of_a_kill_go_with_the_next_build_or_pruning(
    tmp_path: Path,
) -> None:  # 1
    store = Store(tmp_path)
    store.build(INPUTS, write_two)
    leave(store, INPUTS)  # killed after publishing
    assert store.build(INPUTS, write_two).reused
    assert not list((tmp_path / ".staging").iterdir())
    left = leave(store, INPUTS)
    folders = [str(left.staging), str(left.scratch)]
    assert store.prune(dry_run=True) == folders == store.prune()
    assert not list((tmp_path / ".staging").iterdir())


def test_a_lease_that_cannot_be_removed_fails_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 2
    store = Store(tmp_path)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == LEASE:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        built = store.build(INPUTS, write_two)
        assert store.build(INPUTS, write_two).reused
        with pytest.raises(KeyboardInterrupt):
            store.build(OTHER_INPUTS, interrupted)
        (unfinished,) = attempts(store.staging, slug_of("thing", "other", OTHER_INPUTS.fingerprint))
        assert store.prune() == []
        assert unfinished.staging.exists(), "its process, if it lives, finds all it wrote or none"
    assert store.current("thing", "all") == built
    assert store.prune() == [str(unfinished.staging), str(unfinished.scratch)]
    assert not list((tmp_path / ".staging").iterdir())


def leave(store: Store, inputs: Inputs) -> Attempt:
    """What a killed build of this host leaves: its folders, and a lease that was touched a moment
    ago.
    """
    attempt = new_attempt(store.staging, f"{inputs.stage}--{inputs.key}--{inputs.fingerprint}")
    for path in (attempt.staging, attempt.scratch):
        path.mkdir()
        (path / "half").write_text("x")
    attempt.lease.write_text("{}")
    return attempt


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_an_interrupted_small_write_keeps_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 1
    path = tmp_path / "current"
    write_atomically(path, "old")
    monkeypatch.setattr(Path, "replace", interrupted)
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

    with pytest.raises(
        StoreWriteError, match=r"12,345 bytes were written and .* are free"
    ) as error:
        store.build(INPUTS, write)
    assert "No space left" in str(error.value)
    assert store.keys("thing") == []


def _build_slowly(root: str, value: multiprocessing.Queue[bool]) -> None:
    def write(directory: Path, _: object) -> dict[str, int]:
        time.sleep(0.5)
        return write_two(directory, _)

    value.put(Store(Path(root)).build(INPUTS, write).reused)


def test_two_builders_at_once_make_one_artifact(tmp_path: Path) -> None:  # 3
    context = multiprocessing.get_context("spawn")
    reused = context.Queue()
    builders = [
        context.Process(target=_build_slowly, args=(str(tmp_path), reused)) for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(180)
    assert sorted([reused.get(timeout=5), reused.get(timeout=5)]) == [False, True]


def test_without_locks_loser_of_rename_verifies_and_uses_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 3
    monkeypatch.setattr("fcntl.flock", lambda *_: None)

    def write(directory: Path, _: object) -> dict[str, int]:
        other = tmp_path / "other"
        winner = Store(other).build(INPUTS, write_two)
        target = tmp_path / "store" / "thing" / "all" / INPUTS.fingerprint
        target.parent.mkdir(parents=True)
        winner.path.rename(target)
        return write_two(directory, _)

    store = Store(tmp_path / "store")
    artifact = store.build(INPUTS, write)
    assert store.current("thing", "all").fingerprint == artifact.fingerprint
    assert not list((tmp_path / "store" / ".staging").iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "figure"])
def test_damaged_artifacts_are_refused_by_name_and_rebuilt(
    tmp_path: Path, damage: str
) -> None:  # 4, 5
    store = Store(tmp_path)
    artifact = store.build(INPUTS, write_two)
    path = artifact.path / "b.bin"
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "remove":
        path.unlink()
    elif damage == "figure":
        manifest = artifact.path / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"top1": 0.5', '"top1": 0.9'))
    else:
        manifest = artifact.path / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.current("thing", "all")
    assert not store.build(INPUTS, write_two).reused
    assert store.current("thing", "all").file("b.bin").read_bytes() == b"b" * 1000


def test_a_lock_is_free_although_a_fork_still_has_its_file(tmp_path: Path) -> None:
    store, (reader, writer) = Store(tmp_path), os.pipe()
    with store.try_lock("one") as held:
        assert held
        if not (child := os.fork()):
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with store.try_lock("one") as held:
            assert held
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
