"""The tables of docs/architecture.md that follow from the code: `python -m docs.stages` writes them into the page.

Belongs here: the table of stages (`pipeline.STAGES`) and of rooms with their floors (`tests/support_rooms.py`). Does
not belong here: any sentence about them.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from markupsafe import Markup

from react_pipeline.pages import markdown_table
from react_pipeline.pipeline import STAGES

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support_rooms import LIBRARY, arrows, floors  # noqa: E402

PAGE = Path(__file__).with_name("architecture.md")
SCOPES = {
    "all": "–",
    "domain": "domain",
    "method": "domain × method",
    "trained": "domain × method, without `base`",
    "encoder": "domain × method, without linear heads",
}


def stage_table() -> str:
    """Every stage in the order in which data flows, as a Markdown table."""
    rows = [
        (f"`{row.name}`", SCOPES[row.scope], row.about, f"`{row.step.replace(':', '.')}`") for row in STAGES.values()
    ]
    return _table(("stage", "partition", "content", "step"), rows)


def room_table() -> str:
    """Every room from the ground up, with what belongs in it, and how many arrows lead from room to room."""
    used = arrows()
    by_room = floors(used)
    rows = [
        (str(floor), f"`{room}`", _about(room))
        for room, floor in sorted(by_room.items(), key=lambda entry: (entry[1], entry[0]))
    ]
    total = f"{len(used)} rooms, {max(by_room.values())} floors, {sum(map(len, used.values()))} arrows, none back up."
    return f"{total}\n\n{_table(('floor', 'room', 'what belongs in it'), rows)}"


def page_with_tables(text: str) -> str:
    """The page with today's tables between its markers."""
    for name, table in (("stages", stage_table()), ("rooms", room_table())):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(f"{begin}.*{end}", lambda _, new=f"{begin}\n\n{table}\n\n{end}": new, text, flags=re.DOTALL)
    return text


def _about(room: str) -> str:
    places = [LIBRARY / room / "__init__.py", LIBRARY / f"{room}.py"]
    source = next(path for path in places if path.is_file())
    return " ".join((ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")[0].split())


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return markdown_table(header, [list(map(Markup, row)) for row in rows]).rstrip()


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text()))
