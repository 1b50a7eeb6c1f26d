"""FAULTS 44, 45, 46: pruning beside builds, damaged pointers and damaged manifests."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.store import attempts, pruning
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.attempts import LEASE_SECONDS, Attempt, new_attempt
from react_pipeline.store.errors import CorruptArtifact
from react_pipeline.store.store import KEPT_QUARANTINED, Store

of_a_folder = pytest.mark.parametrize("store", ["folder"], indirect=True)
"""A test of the files in a folder."""


def publish(store: Store, value: int, stage: str = "thing", **parents: Artifact) -> Artifact:
    return store.build(Inputs(stage, "all", {"value": value}, parents, "1"), write)


def write(staging: Path, _: object) -> dict[str, int]:
    (staging / "data").write_text("data")
    return {}


def test_what_a_live_build_reads_stays_although_superseded(store: Store) -> None:  # 45
    old = publish(store, 1)

    def write_while_pruned(staging: Path, _: object) -> dict[str, int]:
        publish(store, 2)
        assert store.prune(keep_seconds=0) == []
        return write(staging, _)

    child = store.build(Inputs("child", "all", {}, {"thing": old}, "1"), write_while_pruned)
    assert store.open("thing", "all", old.fingerprint) == old
    publish(store, 2, "child")
    assert store.prune(keep_seconds=0) == [child.address, old.address]


@of_a_folder
def test_what_was_published_and_is_not_yet_current_stays(store: Store) -> None:  # 45
    publish(store, 1)
    attempt = new_attempt(store.staging, "thing--all--x")
    new = publish(store, 2)
    (store.directory("thing", "all") / "current").write_text(publish(store, 1).fingerprint)
    with attempt.held({new.fingerprint}):
        assert store.prune(keep_seconds=0) == []
    assert store.prune(keep_seconds=0) == [new.address]


@of_a_folder
def test_what_was_current_a_moment_ago_stays(store: Store) -> None:  # 45
    old = publish(store, 1)
    publish(store, 2)
    assert store.prune() == []
    for path in (old.path / "manifest.json", old.path.parent / "current"):
        os.utime(path, (0, 0))
    assert store.prune() == [old.address]


@of_a_folder
def test_what_was_just_current_stays_whatever_the_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # 45, 53
    old = publish(store, 1)
    publish(store, 2)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert store.prune() == []
    monkeypatch.setattr("time.time", lambda: 0.0)
    for path in (old.path / "manifest.json", old.path.parent / "current"):
        os.utime(path, (1, 1))
    assert store.prune() == [old.address]


@of_a_folder
@pytest.mark.parametrize("text", ["", "0123456789abcdef", "\0\0\0", "../all"])
def test_a_damaged_pointer_dooms_nothing(store: Store, text: str) -> None:  # 45
    publish(store, 1), publish(store, 2)
    (store.directory("thing", "all") / "current").write_text(text)
    assert store.prune(keep_seconds=0) == []


@of_a_folder
def test_damaged_manifest_among_good_ones_is_reported_and_kept(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:  # 46
    good, bad = publish(store, 1), publish(store, 2)
    publish(store, 3)
    (bad.path / "manifest.json").write_text("{")
    assert store.prune(keep_seconds=0) == [good.address]
    assert str(bad.path) in caplog.text
    assert [
        error is None
        for _, error in sorted(store.verify(), key=lambda found: found[0] == bad.address)
    ] == [
        True,
        False,
    ]


def leave(store: Store, boot: str, seconds: float) -> Attempt:
    """An attempt of another boot whose lease was touched `seconds` ago."""
    attempt = Attempt(store.staging, "thing--all--x", f"{boot}-1-00")
    attempt.staging.mkdir(parents=True)
    attempt.lease.write_text("{}")
    at = attempt.lease.stat().st_mtime - seconds
    os.utime(attempt.lease, (at, at))
    return attempt


@of_a_folder
def test_folders_of_another_host_stay_until_its_lease_runs_out(store: Store) -> None:  # 37, 45
    publish(store, 1)
    alive, dead = leave(store, "elsewhere", 0), leave(store, "faraway", LEASE_SECONDS + 1)
    assert store.prune() == [str(dead.staging)]
    assert alive.staging.exists()
    assert store.is_building("thing", "all", "x")


@of_a_folder
def test_a_lease_dated_in_the_future_blocks_nothing(store: Store) -> None:
    publish(store, 1)
    ahead = leave(store, "elsewhere", -10 * 365 * 24 * 3600)
    assert not store.is_building("thing", "all", "x") and store.prune() == [str(ahead.staging)]


@of_a_folder
def test_the_lock_of_another_mount_proves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.staging.mkdir(parents=True)
    here, device = attempts.host_of(store.staging), attempts.host_of(Path("/proc"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "readlink", lambda _: Path("mnt:[1]"))
        namespace = attempts.host_of.__wrapped__(store.staging)
    assert leave(store, here, 0).is_dead(locked=True)
    assert not leave(store, device, 0).is_dead(locked=True)
    assert not leave(store, namespace, 0).is_dead(locked=True)


@of_a_folder
def test_what_the_disk_refuses_to_remove_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, gone, _last = (publish(store, value) for value in range(3))
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == stuck.path:
            raise OSError(errno.ESTALE, "stale file handle")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert store.prune(keep_seconds=0) == [str(gone.path)]
    assert stuck.path.exists() and not gone.path.exists()


@of_a_folder
def test_quarantine_is_bounded_and_emptied_by_pruning(store: Store) -> None:
    for _ in range(KEPT_QUARANTINED + 2):
        artifact = publish(store, 1)
        (artifact.path / "data").write_text("flip")
    assert len(list((store.root / ".quarantine").iterdir())) == KEPT_QUARANTINED
    store.prune()
    assert not list((store.root / ".quarantine").iterdir())


@of_a_folder
def test_a_stray_file_in_the_quarantine_is_removed(store: Store) -> None:
    publish(store, 1)
    quarantine = store.root / ".quarantine"
    quarantine.mkdir(exist_ok=True)
    (quarantine / "notes.txt").write_text("stray")
    (quarantine / "link").symlink_to(store.root)
    store.prune()
    assert not list(quarantine.iterdir()) and store.root.exists()


@of_a_folder
def test_an_unreadable_artifact_is_damaged_and_built_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # 50
    good, bad = publish(store, 1, "good"), publish(store, 1, "bad")

    def sha256_of(path: Path) -> str:
        if path.is_relative_to(bad.path):
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    from react_pipeline.store import artifacts

    real = artifacts.sha256_of
    artifacts._verified.clear()
    monkeypatch.setattr(artifacts, "_remembered", lambda _: None)
    monkeypatch.setattr(artifacts, "sha256_of", sha256_of)
    with pytest.raises(CorruptArtifact, match="Input/output error"):
        store.current("bad", "all")
    assert {path: error is None for path, error in store.verify()} == {
        good.address: True,
        bad.address: False,
    }
    assert not publish(store, 1, "bad").reused


def test_a_key_called_like_a_file_of_the_store_is_harmless(store: Store) -> None:  # 44
    built = store.build(Inputs("thing", "current", {}, {}, "1"), write)
    assert store.keys("thing") == ["current"]
    assert store.prune(keep_seconds=0) == []
    assert store.current("thing", "current") == built


@of_a_folder
def test_two_at_once_end_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # 45
    for value in range(4):
        last = publish(store, value)
    with monkeypatch.context() as patched:
        rename, read = Path.rename, pruning.read_manifest

        def after_another(function: Any) -> Any:
            def call(*given: Any) -> Any:
                patched.undo()
                pruning.prune(store, keep_seconds=0)  # of a host that does not see our lock
                return function(*given)

            return call

        patched.setattr(Path, "rename", after_another(rename))
        assert len(store.prune(keep_seconds=0)) == 3
        publish(store, 0)
        last = publish(store, 3)
        patched.setattr(pruning, "read_manifest", after_another(read))
        assert store.prune(keep_seconds=0) == []
    assert store.current("thing", "all") == last
