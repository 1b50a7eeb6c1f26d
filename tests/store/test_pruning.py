"""FAULTS 44, 45, 46, 53: what pruning removes and keeps, also next to builds; damaged pointers and
damaged manifests.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.things import inputs, of_a_folder, publish, write

from react_pipeline.store import (
    RETENTION_SECONDS,
    CorruptArtifact,
    MissingArtifact,
    Scratch,
    Store,
)


def prune(store: Store, **options: bool) -> list[str]:
    """As if no time were kept; copies of a bucket's files apart."""
    removed = store.prune(keep_seconds=-3_600, **options)
    return [address for address in removed if "/.copies/" not in address]


def test_current_artifacts_and_their_ancestors_stay(store: Store) -> None:
    old_parent = publish(store, 1, "parent")
    child = publish(store, 1, "child", parent=old_parent)
    new_parent = publish(store, 2, "parent")
    stale, current = publish(store, 1), publish(store, 2)
    assert store.prune(dry_run=True) == store.prune() == [], "current within the time"
    assert prune(store, dry_run=True) == [stale.address]
    assert store.open("thing", "all", stale.fingerprint).path
    assert prune(store) == [stale.address]
    assert store.versions("thing", "all") == [current.fingerprint]
    with pytest.raises(MissingArtifact):
        store.open("thing", "all", stale.fingerprint)
    for kept in (old_parent, child, new_parent, current):
        assert store.open(kept.stage, kept.key, kept.fingerprint).path
    publish(store, 2, "child")
    assert prune(store) == [child.address, old_parent.address], "children first"


@of_a_folder
@pytest.mark.parametrize("again", [False, True])
def test_time_counts_from_the_last_change_of_the_pointer(store: Store, again: bool) -> None:  # 45
    old, new = publish(store, 1), publish(store, 2)
    long_ago = time.time() - 2 * RETENTION_SECONDS
    for path in store.root.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert store.prune() == [], "nothing happened since"
    for value in (3, 1, 3) if again else (3,):
        publish(store, value)
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
    assert prune(store) == []
    with pytest.raises(MissingArtifact, match="thing"):
        store.current("thing", "all")
    assert store.current("thing", "all") if publish(store, 2) else None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"attempt": "_a", "manifest": {}}'])
def test_a_damaged_manifest_is_kept_and_made_again(
    store: Store,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # 46
    monkeypatch.setattr("react_pipeline.store.pruning.RETENTION_SECONDS", -3_600)
    parent = publish(store, 1, "parent")
    good, bad = publish(store, 1), publish(store, 2, parent=parent)
    publish(store, 2, "parent"), publish(store, 3)
    assert good.address in prune(store, dry_run=True)
    store.backend.put(f"{bad.place}/manifest.json", content)
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.open("thing", "all", bad.fingerprint)
    assert prune(store) == [], "it may be made from any"
    assert bad.address in caplog.text and [*store.backend.entries(bad.prefix)]
    assert [address for address, error in store.verify() if error] == [bad.address]
    assert not publish(store, 2, parent=parent).reused


def test_attempts_and_scratch_go_when_old_and_unused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(store, 1)
    attempt = f"{artifact.place}/_{'0' * 16}"
    store.backend.put(f"{attempt}/data", b"half")

    def killed(_: Path, scratch: Scratch) -> dict[str, int]:
        scratch.keep("part", lambda path: path.write_text("part"))
        assert prune(store) == [], "both may be about to be published"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build(inputs(2), killed)
    assert store.prune() == prune(store) == [] and store.earlier_scratches(inputs(2))
    (left,) = (store.root / ".scratch").iterdir()
    monkeypatch.setattr("react_pipeline.store.pruning.RETENTION_SECONDS", -3_600)
    expected = [store.backend.address(attempt), str(left)]
    assert prune(store, dry_run=True) == prune(store) == expected
    assert not store.earlier_scratches(inputs(2)) and not [*store.backend.entries(attempt)]
    assert store.current("thing", "all").path


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
    assert prune(store) == [gone.address]
    assert (store.root / stuck.prefix).exists() and not (store.root / gone.prefix).exists()


@of_a_folder
def test_a_scratch_is_not_old_because_a_file_of_it_vanishes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.scratch(inputs(9)).keep("part", lambda path: path.write_text("part"))
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == ".begun":
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert store.prune() == [] and kept.exists()


def test_a_key_called_like_an_object_of_the_store_is_harmless(store: Store) -> None:  # 44
    for name in ("current", "manifest.json"):
        built = store.build(inputs(key=name), write)
        assert store.current("thing", name) == built
    assert store.keys("thing") == ["current", "manifest.json"]
    assert prune(store) == []


def before(
    monkeypatch: pytest.MonkeyPatch, store: Store, call: str, happens: Callable[[], object]
) -> None:
    """Let something happen once, before `prune` asks for (`entries`) or removes (`delete`) a
    manifest.
    """
    backend, pending = type(store.backend), [happens]
    real: Any = getattr(backend, call)

    def late(self: object, path: str = "", *given: str, **named: str) -> object:
        if path and pending:
            pending.pop()()
        return real(self, path, *given, **named)

    monkeypatch.setattr(backend, call, late)


@pytest.mark.parametrize(
    ("call", "values", "keep_seconds"),
    [("entries", [1], 0), ("delete", [1], 0), ("entries", [1, 3], 60)],
)
@of_a_folder
def test_what_became_current_since_a_look_stays(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    values: list[int],
    keep_seconds: float,
) -> None:  # 45
    old = publish(store, 1)
    publish(store, 2)
    if keep_seconds:
        for path in store.root.rglob("*"):
            os.utime(path, (1e9, 1e9))
        publish(store, 3)
    before(monkeypatch, store, call, lambda: [publish(store, value) for value in values])
    assert store.prune(keep_seconds=keep_seconds) == []
    assert store.open("thing", "all", old.fingerprint).path
    assert store.current("thing", "all").manifest["config"] == {"value": values[-1]}


@pytest.mark.parametrize(("call", "current"), [("entries", 2), ("delete", 1)])
@of_a_folder
def test_what_another_removed_and_made_again_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, current: int
) -> None:  # 45
    old = publish(store, 1)
    publish(store, 2)

    def meanwhile() -> None:
        store.backend.delete(f"{old.place}/manifest.json")
        store.backend.discard(old.prefix)
        publish(store, 1), publish(store, current)

    before(monkeypatch, store, call, meanwhile)
    assert prune(store) == []
    assert store.has("thing", "all") and {error for _, error in store.verify()} == {None}
    assert (old.fingerprint in store.versions("thing", "all")) == (call == "entries")


@of_a_folder
def test_two_prunes_at_once_end_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # 45
    artifacts = [publish(store, value) for value in range(4)]
    monkeypatch.setattr("react_pipeline.store.durable.lock", lambda *_, **__: True)
    before(monkeypatch, store, "delete", lambda: Store(store.root).prune(keep_seconds=-3_600))
    prune(store)
    assert store.versions("thing", "all") == [artifacts[-1].fingerprint]
    assert store.current("thing", "all").path
