from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import dense, dense_seeds


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


def test_spread_is_that_over_seeds_of_the_mean_over_domains() -> None:
    values = {("animals", 0): 1.0, ("animals", 1): 3.0, ("food", 0): 5.0, ("food", 1): 5.0}
    rows = [(slug, "base", "truth", seed, value) for (slug, seed), value in values.items()]
    table = pd.DataFrame(rows, columns=["domain", "method", "source", "seed", "value"])
    lines = dense_seeds.summarise(table, ["animals", "food"], ["base"]).splitlines()[2:]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
    assert [(row[0], row[2]) for row in found] == [("mean", "3.5 ± 0.7")]
    one = dense_seeds.summarise(table[table["seed"] == 0], ["food"], ["base"])
    assert "±" not in one and "mean" not in one and "5.0" in one
