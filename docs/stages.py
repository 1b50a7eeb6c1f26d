"""The tables of docs/architecture.md that follow from the code: `python -m docs.stages` writes them
into the page.

Belongs here: the table of stages (`stage.STAGES`) and of rooms with their floors
(`tests/support/rooms.py`). Does not belong here: any sentence about them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from react_pipeline.stage import STAGES

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.rooms import arrows, floors

PAGE = Path(__file__).with_name("architecture.md")
SCOPES = {
    "all": "",
    "domain": " (by domain)",
    "method": " (by domain and method)",
    "trained": " (by domain and method, without `base`)",
    "encoder": " (by domain and method, without heads)",
}


def stage_table() -> str:
    """Every stage in the order in which data flows, with its partitions, as a list."""
    return "\n".join(f"- `{row.name}`{SCOPES[row.scope]}: {row.about}" for row in STAGES.values())


def room_table() -> str:
    """The rooms on every floor from the ground up, and how many arrows lead from room to room."""
    used = arrows()
    by_room = floors(used)
    top = max(by_room.values())
    on_floor = {
        number: sorted(room for room in by_room if by_room[room] == number)
        for number in range(1, top + 1)
    }
    lines = [
        f"{number}. {', '.join(f'`{room}`' for room in rooms)}"
        for number, rooms in on_floor.items()
    ]
    total = f"{len(used)} rooms, {top} floors, {sum(map(len, used.values()))} arrows, none back up."
    return "\n".join([total, "", *lines])


def page_with_tables(text: str) -> str:
    """The page with today's tables between its markers."""
    for name, table in (("stages", stage_table()), ("rooms", room_table())):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(
            f"{begin}.*{end}",
            lambda _, new=f"{begin}\n\n{table}\n\n{end}": new,
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text()))
