"""FAULTS 57: what is published is on the disk before its name is, and a manifest of another format
is no artifact.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.things import publish

from react_pipeline.store import (
    CorruptArtifact,
    Scratch,
    Store,
    append,
    fsync_tree,
    lock,
    write_atomically,
)
from react_pipeline.store.artifacts import with_digest

Calls = list[tuple[str, int, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the operating system is asked to do, in order: `fsync`, or `name` with the new path; by
    inodes, since files are moved from the scratch to their place.
    """
    calls: Calls = []

    def logged(function: Any) -> Any:
        def call(source: Any, target: Any) -> None:
            function(source, target)
            calls.append(("name", Path(target).stat().st_ino, str(target)))

        return call

    def fsync(file: int) -> None:
        calls.append(("fsync", os.fstat(file).st_ino, ""))

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, logged(getattr(os, name)))
    return calls


def synced(path: Path) -> tuple[str, int, str]:
    return "fsync", path.stat().st_ino, ""


def test_files_reach_the_disk_before_their_names_and_pointer(tmp_path: Path, asked: Calls) -> None:
    artifact = publish(Store(tmp_path))
    place = artifact.path.parent

    def named(path: Path) -> int:
        return asked.index(("name", path.stat().st_ino, str(path)))

    manifest, pointer = named(place / "manifest.json"), named(tmp_path / "thing/all/current")
    moved = named(artifact.path)
    assert moved < manifest < pointer
    for path in (artifact.path, *artifact.path.rglob("[!.]*")):
        assert synced(path) in asked[:moved], path
    for path in (place, *(tmp_path / folder for folder in ("thing/all", "thing", ""))):
        assert synced(path) in asked[moved:manifest], path
    assert synced(place / "manifest.json") in asked[:manifest]
    assert synced(place) in asked[manifest:pointer]
    assert synced(place.parent) in asked[pointer:]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_file_and_then_its_name_are_put_on_the_disk(
    tmp_path: Path, asked: Calls, is_kept: bool
) -> None:
    path = tmp_path / "one"
    if is_kept:
        Scratch(tmp_path).keep("one", lambda part: part.write_text("data"))
    else:
        write_atomically(path, "data")
    named = asked.index(("name", path.stat().st_ino, str(path)))
    assert synced(path) in asked[:named]
    assert asked[named + 1] == synced(tmp_path)


def test_a_removed_manifest_is_off_the_disk_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    old = publish(store)
    publish(store, 2)
    there: list[bool] = []
    files = store.root / old.prefix

    def note(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == files.parent.stat().st_ino:
            there.append(files.exists() and not (files.parent / "manifest.json").exists())

    monkeypatch.setattr(os, "fsync", note)
    assert store.prune(keep_seconds=-3_600) == [old.address]
    assert there[0]


def test_what_was_appended_is_on_the_disk(tmp_path: Path, asked: Calls) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append(descriptor, b"a line\n")
    os.close(descriptor)
    assert asked == [synced(tmp_path / "log")]


@pytest.mark.parametrize("change", [{"format": 1}, {"format": None}, {"fingerprint": "0" * 16}])
def test_a_manifest_of_another_format_or_artifact_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:  # 33
    store = Store(tmp_path)
    path = publish(store).path.parent / "manifest.json"
    manifest = {**json.loads(path.read_text()), **change}
    del manifest["digest"]
    path.write_text(json.dumps(with_digest(manifest)))
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        store.current("thing", "all")


def test_a_new_file_gets_its_folder_mode_unless_replaced(
    tmp_path: Path,
) -> None:
    folder, published = tmp_path / "folder", tmp_path / "published"
    folder.mkdir()
    folder.chmod(0o755)
    for path in (published, folder / "temporary"):
        path.touch()
        path.chmod(0o600)
    os.link(published, folder / "linked")
    fsync_tree(folder)
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()].count(0o644) == 1
    assert published.stat().st_mode & 0o777 == 0o600


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append(descriptor, b"a line\n")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    with pytest.raises(OSError, match="No space"):
        append(descriptor, b"another\n")
    os.close(descriptor)
    assert (tmp_path / "log").read_text() == "a line\n"


def test_a_file_that_cannot_be_locked_is_no_lock_of_another() -> None:
    with pytest.raises(OSError, match="Bad file"):
        lock(10**6)
