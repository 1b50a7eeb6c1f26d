from __future__ import annotations

import pytest

from benchmarks import dense


def test_every_attention_is_timed_against_the_plain_tower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["dense", "--model", "ViT-S-32", "--side", "64", "--rounds", "2"]
    )
    dense.main()
    rows = [row.split("|") for row in capsys.readouterr().out.splitlines() if row.startswith("|")][
        2:
    ]
    assert [row[1].strip() for row in rows] == [
        "plain",
        "value",
        "qq",
        "qq+kk",
        "kk+gauss",
        "model",
    ]
    assert [cell.strip() for cell in rows[0][3:5]] == ["1.00", "1.00"]
