"""Equal inputs give equal files, byte for byte: built elsewhere, at another time zone, from folders
that list their files in another order.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import lineage

pytestmark = [pytest.mark.slow, pytest.mark.operations]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield to
    monkeypatch.undo()
    time.tzset()


def test_two_builds_publish_the_same_bytes(
    tmp_path: Path, zone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "another folder" / "two"
    one.mkdir()
    lineage.write_inputs(one)
    shutil.copytree(one, other)
    zone("Pacific/Kiritimati")
    lineage.run(one)
    lineage.forget()
    zone("America/Los_Angeles")
    scan, listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, "listdir", lambda *place: sorted(listdir(*place), reverse=True))

    class Reversed:
        """The entries of a folder, the last name first."""

        def __init__(self, *place: Any) -> None:
            with scan(*place) as entries:
                self._entries = iter(sorted(entries, key=lambda e: e.name, reverse=True))

        def __iter__(self) -> Iterator[Any]:
            return self._entries

        def __next__(self) -> Any:
            return next(self._entries)

        def __enter__(self) -> Reversed:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    lineage.run(other)
    assert lineage.published(other) == lineage.published(one)
