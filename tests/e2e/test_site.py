"""The documentation site, opened from its folder: it searches, and loads nothing from the web."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.services import program

pytestmark = [pytest.mark.slow, pytest.mark.operations]

REPOSITORY = Path(__file__).parents[2]


def test_the_site_is_searched_without_a_server(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    program("chromium", "chromium")
    from docs.screenshots import open_page

    asked: list[str] = []
    with open_page(1400, 900) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{tmp_path.as_uri()}/results.html")
        page.locator("[data-md-component=search-query]").click()
        page.get_by_text("Type to start searching").wait_for()
        page.keyboard.type("duplicates")
        page.locator(".md-search-result__item").first.wait_for()
    assert [url for url in asked if not url.startswith("file:")] == []
