"""The tests mirror the rooms: a test is found where the code is that it tests."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from support.rooms import LIBRARY

TESTS = Path(__file__).parents[1]
LONGEST_NAME = 59
NO_ROOMS = {
    "benchmarks",
    "e2e",
    "examples",
    "faults",
    "golden",
    "gpu",
    "pages",
    "house",  # Modules beside the rooms, and the guards of the whole.
    "support",
}


def test_every_folder_of_tests_is_a_room_or_named() -> None:
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        assert folder.parts, f"{path.name} is not in the folder of a room"
        assert folder.parts[0] in NO_ROOMS or (LIBRARY / folder / "__init__.py").is_file(), path


def test_support_code_is_one_package() -> None:
    beside = {path.name for path in TESTS.glob("*.py")}
    assert beside == {"conftest.py", "mutation_sample.py", "mutations.py", "support_rooms.py"}
    assert not list(TESTS.rglob("*/support_*.py"))


def test_a_name_of_a_test_is_short() -> None:
    names = [
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not [name for name in names if len(name) > LONGEST_NAME]


def test_no_two_modules_of_tests_have_one_name() -> None:
    """Without packages pytest imports them by their names alone."""
    counts = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert not [name for name, count in counts.items() if count > 1]
