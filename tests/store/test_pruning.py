"""FAULTS 44, 45, 46, 53: what pruning removes and keeps, also next to builds; damaged pointers and
damaged manifests.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from react_pipeline.store import Scratch
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.store import RETENTION_SECONDS, Store

of_a_folder = pytest.mark.parametrize("store", ["folder"], indirect=True)
"""A test of the files in a folder."""


def publish(store: Store, value: int, stage: str = "thing", **parents: Artifact) -> Artifact:
    return store.build(Inputs(stage, "all", {"value": value}, parents, "1"), write)


def write(directory: Path, _: object) -> dict[str, int]:
    (directory / "data").write_text("data")
    return {}


def test_current_artifacts_and_their_ancestors_stay(store: Store) -> None:
    old_parent = publish(store, 1, "parent")
    child = publish(store, 1, "child", parent=old_parent)
    new_parent = publish(store, 2, "parent")
    stale, current = publish(store, 1), publish(store, 2)
    assert store.prune(dry_run=True, keep_seconds=-1) == [stale.address]
    assert store.open("thing", "all", stale.fingerprint).path
    assert store.prune(keep_seconds=-1) == [stale.address]
    assert store.versions("thing", "all") == [current.fingerprint]
    with pytest.raises(MissingArtifact):
        store.open("thing", "all", stale.fingerprint)
    for kept in (old_parent, child, new_parent, current):
        assert store.open(kept.stage, kept.key, kept.fingerprint).path
    publish(store, 2, "child")
    assert store.prune(keep_seconds=-1) == [child.address, old_parent.address], "children first"


def test_what_was_current_within_the_time_stays(store: Store) -> None:  # 45
    publish(store, 1)
    publish(store, 2)
    assert store.prune(dry_run=True) == store.prune() == []


@of_a_folder
@pytest.mark.parametrize("again", [False, True])
def test_time_counts_from_the_last_change_of_the_pointer(store: Store, again: bool) -> None:  # 45
    old, new = publish(store, 1), publish(store, 2)
    long_ago = time.time() - 2 * RETENTION_SECONDS
    for path in store.root.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert store.prune() == [], "nothing happened since"
    publish(store, 3)
    if again:
        publish(store, 1)
        publish(store, 3)
    assert store.prune() == ([] if again else [old.address])
    assert store.open("thing", "all", new.fingerprint).path


@of_a_folder
def test_a_wrong_clock_dooms_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # 53
    publish(store, 1), publish(store, 2)
    for now in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert store.prune() == []


@pytest.mark.parametrize("text", [b"", b"0123456789abcdef", b"\0\0\0", b"../all"])
def test_a_damaged_pointer_dooms_nothing(store: Store, text: bytes) -> None:  # 45
    publish(store, 1), publish(store, 2)
    store.backend.put("thing/all/current", text)
    assert store.prune(keep_seconds=-1) == []
    with pytest.raises(MissingArtifact, match="thing"):
        store.current("thing", "all")
    assert store.current("thing", "all") if publish(store, 2) else None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"attempt": "_a", "manifest": {}}'])
def test_a_damaged_manifest_is_kept_and_made_again(
    store: Store, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:  # 46
    good, bad = publish(store, 1), publish(store, 2)
    publish(store, 3)
    store.backend.put(f"{bad.place}/manifest.json", content)
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.open("thing", "all", bad.fingerprint)
    assert store.prune(keep_seconds=-1) == [good.address]
    assert bad.address in caplog.text
    errors = dict(store.verify())
    assert [address for address, error in errors.items() if error] == [bad.address]
    assert not publish(store, 2).reused


def test_attempts_without_a_manifest_go_when_old(store: Store) -> None:
    artifact = publish(store, 1)
    left = f"{artifact.place}/_{'0' * 16}"
    store.backend.put(f"{left}/data", b"half")
    assert store.prune() == []
    assert store.prune(dry_run=True, keep_seconds=-1) == [store.backend.address(left)]
    with store.locked(f"thing--all--{artifact.fingerprint}"):
        assert store.prune(keep_seconds=-1) == [], "a build may be about to publish it"
    assert store.prune(keep_seconds=-1) == [store.backend.address(left)]
    assert [entry.path for entry in store.backend.entries(left)] == []
    assert store.current("thing", "all").path


def test_scratch_goes_when_old_unless_a_build_uses_it(store: Store) -> None:
    def killed(_: Path, scratch: Scratch) -> dict[str, int]:
        scratch.keep("part", lambda path: path.write_text("part"))
        assert store.prune(keep_seconds=-1) == []
        raise KeyboardInterrupt

    inputs = Inputs("thing", "all", {"value": 1}, {}, "1")
    with pytest.raises(KeyboardInterrupt):
        store.build(inputs, killed)
    assert store.prune() == [] and store.earlier_scratches(inputs)
    (left,) = (store.root / ".scratch").iterdir()
    publish(store, 2)
    assert store.prune(keep_seconds=-1) == [str(left)]
    assert not store.earlier_scratches(inputs)


@of_a_folder
def test_what_the_disk_refuses_to_remove_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, gone, _last = (publish(store, value) for value in range(3))
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.is_relative_to(stuck.path.parent):
            raise OSError(errno.ESTALE, "stale file handle")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert store.prune(keep_seconds=-1) == [gone.address]
    assert (store.root / stuck.prefix).exists() and not (store.root / gone.prefix).exists()


@of_a_folder
def test_a_scratch_is_not_old_because_a_file_of_it_vanishes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs("thing", "all", {"value": 9}, {}, "1")
    kept = store.scratch(inputs).keep("part", lambda path: path.write_text("part"))
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == ".begun":
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert store.prune() == [] and kept.exists()


def test_a_key_called_like_an_object_of_the_store_is_harmless(store: Store) -> None:  # 44
    for name in ("current", "manifest.json"):
        built = store.build(Inputs("thing", name, {}, {}, "1"), write)
        assert store.current("thing", name) == built
    assert store.keys("thing") == ["current", "manifest.json"]
    assert store.prune(keep_seconds=-1) == []


def before_removal(
    store: Store, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]
) -> None:
    """Let something happen between the last look of `prune` and its removal of a manifest."""
    remove = type(store.backend).remove

    def late(self: object, *given: object, **named: object) -> bool:
        monkeypatch.undo()
        happens()
        return bool(remove(self, *given, **named))  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.backend), "remove", late)


def test_what_became_current_since_a_look_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # 45
    old = publish(store, 1)
    publish(store, 2)
    before_removal(store, monkeypatch, lambda: publish(store, 1))
    assert store.prune(keep_seconds=0) == []
    assert store.current("thing", "all") == old and old.path


@of_a_folder
def test_what_was_current_since_a_look_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # 45
    old = publish(store, 1)
    publish(store, 2)
    for path in store.root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    publish(store, 3)
    before_removal(store, monkeypatch, lambda: (publish(store, 1), publish(store, 3)))
    assert store.prune(keep_seconds=60) == []
    assert store.open("thing", "all", old.fingerprint).path


def test_what_another_removed_and_made_again_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(store, 1)
    publish(store, 2)

    def meanwhile() -> None:
        with store.locked("elsewhere"):
            assert store.backend.remove(f"{old.place}/manifest.json", manifest) is True
        assert publish(store, 1).path and publish(store, 2)

    manifest = store.backend.read(f"{old.place}/manifest.json")
    before_removal(store, monkeypatch, meanwhile)
    assert store.prune(keep_seconds=-1) == []
    assert store.open("thing", "all", old.fingerprint).path


@of_a_folder
def test_two_prunes_at_once_end_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # 45
    artifacts = [publish(store, value) for value in range(4)]
    other = Store(store.root)
    before_removal(store, monkeypatch, lambda: prune_without_lock(other, monkeypatch))
    store.prune(keep_seconds=-1)
    assert store.versions("thing", "all") == [artifacts[-1].fingerprint]
    assert store.current("thing", "all").path


def prune_without_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("react_pipeline.store.durable.lock", lambda *_, **__: True)
        store.prune(keep_seconds=-1)
