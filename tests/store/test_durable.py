"""FAULTS 57: what is published is on the disk before its name is, and a manifest of another format
is no artifact.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.store.artifacts import Inputs, manifest_digest
from react_pipeline.store.durable import append, fsync_tree, write_atomically
from react_pipeline.store.errors import CorruptArtifact
from react_pipeline.store.store import Store

INPUTS = Inputs("thing", "all", {}, {}, "1")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the operating system is asked to do, in order: `fsync` and the path, `name` and the new
    path.
    """
    asked: list[tuple[str, str]] = []
    fsync = os.fsync

    def logged_fsync(descriptor: int) -> None:
        fsync(descriptor)
        asked.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def logged(function: Any) -> Any:
        def call(source: Any, target: Any) -> None:
            function(source, target)
            asked.append(("name", str(target)))

        return call

    monkeypatch.setattr(os, "fsync", logged_fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, logged(getattr(os, name)))
    return asked


def write(staging: Path, _: object) -> dict[str, int]:
    (staging / "below").mkdir()
    (staging / "below" / "data").write_text("data")
    return {}


def test_files_reach_the_disk_before_their_names_and_pointer(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    artifact = Store(tmp_path).build(INPUTS, write)
    names = [asked for asked in calls if asked[0] == "name"]
    published, pointed = (
        ("name", str(artifact.path)),
        ("name", str(artifact.path.parent / "current")),
    )
    assert names.index(published) < names.index(pointed)
    before = [Path(path) for kind, path in calls[: calls.index(published)] if kind == "fsync"]
    staging = next(
        path
        for path in before
        if path.parent.name == ".staging" and path.name.startswith("thing--")
    )
    assert {
        staging,
        staging / "manifest.json",
        staging / "below",
        staging / "below" / "data",
    } <= set(before)
    between = calls[calls.index(published) : calls.index(pointed)]
    assert ("fsync", str(artifact.path.parent)) in between
    assert ("fsync", str(artifact.path.parent)) in calls[calls.index(pointed) :]


def test_a_small_file_and_then_its_name_are_put_on_the_disk(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    write_atomically(tmp_path / "current", "text")
    (first, temporary), named, (last, folder) = calls
    assert (first, Path(temporary).parent, named) == (
        "fsync",
        tmp_path,
        ("name", str(tmp_path / "current")),
    )
    assert (last, folder) == ("fsync", str(tmp_path))


def test_what_was_appended_is_on_the_disk(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append(descriptor, b"a line\n")
    os.close(descriptor)
    assert calls == [("fsync", str(tmp_path / "log"))]


@pytest.mark.parametrize("change", [{"format": 1}, {"format": None}, {"fingerprint": "0" * 16}])
def test_a_manifest_of_another_format_or_artifact_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:  # 33
    store = Store(tmp_path)
    path = store.build(INPUTS, write).path / "manifest.json"
    manifest = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))
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
    assert [oct(path.stat().st_mode & 0o777) for path in (folder / "temporary", published)] == [
        "0o644",
        "0o600",
    ]
