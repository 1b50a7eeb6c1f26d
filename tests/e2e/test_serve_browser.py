"""Browsing the corpus by clicks: clip-retrieval's page in a real browser, over our index."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support_drawings import COLOURS, SHAPES, draw, pair, write_shard
from support_services import program

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.indexing.index import build_index
from react_pipeline.project.project import Project

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> "onerror=alert(3) a red circle'
PICTURES = "img.pic"


@dataclass
class Browsed:
    """A page of the running server, and what it did beside showing things."""

    page: Any
    address: str
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def pictures(self) -> list[int]:
        """Widths in pixels of the pictures found."""
        self.page.locator(PICTURES).first.wait_for()
        self.page.wait_for_timeout(500)
        return list(self.page.locator(PICTURES).evaluate_all("all => all.map(picture => picture.naturalWidth)"))


@pytest.fixture
def project(make_project: Callable[..., Project], tmp_path: Path) -> Project:
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    samples = {f"{n:03d}": pair(*pairs[n % len(pairs)], n) for n in range(48)}
    samples["007"]["txt"] = HOSTILE.encode()
    write_shard(tmp_path / "shards" / "0.tar", samples)
    project = make_project(corpus={"shards": [str(tmp_path / "shards" / "*.tar")]})
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    return project


@pytest.fixture
def browsed(project: Project) -> Iterator[Browsed]:
    program("chromium", "chromium")
    from docs.screenshots import open_page

    command = [sys.executable, "-m", "react_pipeline", "serve", "--port", "0", "--config", str(project.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stdout)))
        with open_page(1400, 900) as page:
            browsed = Browsed(page, found[0])
            page.on("request", lambda request: browsed.asked.append(request.url))
            page.on("pageerror", lambda error: browsed.wrong.append(str(error)))
            page.on("dialog", lambda dialog: browsed.wrong.append(f"dialog {dialog.message}"))
            page.goto(browsed.address)
            yield browsed
    finally:
        process.terminate()
        process.wait(20)


def test_a_typed_query_shows_pictures_and_nothing_of_a_caption_runs(browsed: Browsed, tmp_path: Path) -> None:
    page = browsed.page
    page.locator("#searchBar").fill("a red circle")
    page.locator("#searchBar").press("Enter")
    assert set(browsed.pictures()) == {40}
    shown = page.locator("#products").inner_text()
    assert "a drawing of a" in shown

    page.locator("select").last.select_option("text")
    page.get_by_label("Display full captions").check()
    page.locator("#searchBar").fill(HOSTILE)
    page.locator("#searchBar").press("Enter")
    page.get_by_text(HOSTILE).first.wait_for()
    assert page.locator("#products script, #products img[src='x']").count() == 0
    page.screenshot(path=tmp_path / "text.png")
    assert [url for url in browsed.asked if not url.startswith((browsed.address, "data:"))] == []
    assert browsed.wrong == []


def test_an_image_from_disk_and_a_result_are_searched_with(browsed: Browsed, tmp_path: Path) -> None:
    draw("circle", "red", 0).save(tmp_path / "query.png")
    page = browsed.page
    page.locator("#filechooser").set_input_files(tmp_path / "query.png")
    page.get_by_label("Display similarities").check()
    assert set(browsed.pictures()) == {40}
    # The very drawing is the first pair of the corpus.
    assert float(page.locator("#products figure p").first.inner_text()) == pytest.approx(1, abs=0.01)
    chosen = page.locator("#products figure").nth(3)
    picture = chosen.locator(PICTURES).get_attribute("src")
    chosen.hover()
    chosen.locator(".subImageSearch").click()
    page.wait_for_function(
        "picture => document.querySelector('clip-front').shadowRoot.querySelector('img.pic').src === picture",
        arg=picture,
    )
    page.screenshot(path=tmp_path / "image.png")
    assert browsed.wrong == []
