"""The section of a page that a benchmark writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pages import show_section


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Before\n<!-- a -->\nold\n<!-- /a -->\nafter <!-- a --> <!-- /a -->\n")
    for text in ("first", "| new |\n"):
        show_section(text, page, "<!-- a -->", "<!-- /a -->")
    expected = "# Before\n<!-- a -->\n\n| new |\n\n<!-- /a -->\nafter <!-- a --> <!-- /a -->\n"
    assert page.read_text() == expected
    with pytest.raises(ValueError, match="<!-- b -->"):
        show_section("other", page, "<!-- b -->", "<!-- /b -->")
    assert page.read_text() == expected
