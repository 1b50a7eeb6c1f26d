"""Attempts whose folders vanish while they are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.store.attempts import Attempt, attempts


def test_a_folder_that_vanishes_is_listed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.host-1-x", "a.host-2-y"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        Attempt,
        "leftovers",
        property(lambda self: [self.staging if self.name[5] == "2" else tmp_path / "gone"]),
    )
    assert [one.name for one in attempts(tmp_path)] == ["host-2-y", "host-1-x"]
