"""FAULTS 37, 39, 40, 56: file systems without locks, and a damaged `store.json`."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from react_pipeline.store import file_system
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.durable import write_atomically
from react_pipeline.store.errors import InputError
from react_pipeline.store.store import Store

INPUTS = Inputs("thing", "all", {}, {}, "1")


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system, "_has_locks", {})


def test_a_file_system_without_locks_builds_under_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # 39
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = Store(tmp_path)

    def write(staging: Path, _: object) -> dict[str, int]:
        assert Store(tmp_path).is_building("thing", "all", INPUTS.fingerprint)
        return {}

    assert not store.build(INPUTS, write).reused
    assert store.build(INPUTS, write).reused
    assert not store.is_building("thing", "all", INPUTS.fingerprint)
    assert caplog.text.count("without locks") == 1


def test_locks_that_do_not_hold_between_processes_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 37
    assert file_system.has_locks(tmp_path)
    monkeypatch.setattr(file_system, "_has_locks", {})
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    other = tmp_path / "other"
    other.mkdir()
    assert not file_system.has_locks(other)


def test_locks_are_tried_where_nothing_is_pruned(tmp_path: Path) -> None:
    assert file_system.has_locks(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file_system.LOCKS]
    assert not list((tmp_path / file_system.LOCKS).iterdir())


def test_temporary_names_differ_between_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 40
    names = []
    replace = Path.replace
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (names.append(self.name), replace(self, target))[1]
    )
    for _ in range(2):
        write_atomically(tmp_path / "file", "text")
    assert len(set(names)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 0}', "\0"])
def test_a_damaged_or_foreign_store_json_is_one_clear_error(
    tmp_path: Path, text: str
) -> None:  # 33, 56
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(InputError, match=str(tmp_path)):
        Store(tmp_path)
