from __future__ import annotations

import pytest

from benchmarks import dense


def test_every_attention_is_timed_against_the_plain_tower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dense", "--model", "ViT-S-32", "--side", "64", "--rounds", "1"])
    dense.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == ["plain", "value", "qq", "qq+kk", "kk+gauss", "model"]
    assert rows[0].endswith("| 1.00 |")
