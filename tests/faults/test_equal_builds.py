"""Equal inputs give equal files, byte for byte: built elsewhere, at another time zone, from folders
that list their files in another order.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
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

    class Reversed(ExitStack):
        """The entries of a folder, the last name first."""

        def __init__(self, *place: Any) -> None:
            super().__init__()
            with scan(*place) as entries:
                self._entries = sorted(entries, key=lambda e: e.name)

        def __iter__(self) -> Reversed:
            return self

        def __next__(self) -> Any:
            if self._entries:
                return self._entries.pop()
            raise StopIteration

    monkeypatch.setattr(os, "scandir", Reversed)
    lineage.run(other)
    assert lineage.published(other) == lineage.published(one)
