"""The table of announced and measured seconds."""

from __future__ import annotations

from benchmarks.plan import comparison


def test_distant_steps_are_marked_and_short_ones_not_judged() -> None:
    announced = {"corpus": 10.0, "faiss_index": 40.0, "control_set": 20.0}
    table = comparison(
        announced, {"corpus": 5.0, "faiss_index": 4.0, "control_set": 5.0, "overview": 9.0}
    )
    cells = {
        line.split("|")[1].strip(): line.split("|")[4].strip() for line in table.splitlines()[2:]
    }
    assert cells == {
        "`corpus`": "2.00",
        "`faiss_index`": "",
        "`control_set`": "**4.00**",
        "`overview`": "",
    }
