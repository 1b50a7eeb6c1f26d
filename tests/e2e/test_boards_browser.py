"""Boards by clicks and keys, in a real browser: browsing the corpus, reviewing pairs, judging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from support.customized import customized
from support.drawings import COLOURS, SHAPES, draw, pair, write_shard
from support.services import command, program, serving

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.extensions.pages.search import search_pairs
from react_pipeline.extensions.pages.session import Session
from react_pipeline.indexing.index import build_index
from react_pipeline.project import current_decisions
from react_pipeline.project.project import Project

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> "onerror=alert(3) a red circle'
PICTURES = "#items img"
JUDGEMENTS = 40


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
        return list(
            self.page.locator(PICTURES).evaluate_all(
                "all => all.map(picture => picture.naturalWidth)"
            )
        )


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


@contextmanager
def opened(project: Project, *words: str) -> Iterator[Browsed]:
    """The page of a command."""
    program("chromium", "chromium")
    from docs.screenshots import open_page

    with (
        serving(command(project, *words, "--port", "0")) as (address, _),
        open_page(1400, 900) as page,
    ):
        browsed = Browsed(page, address)
        page.on("request", lambda request: browsed.asked.append(request.url))
        page.on("pageerror", lambda error: browsed.wrong.append(str(error)))
        page.on("dialog", lambda dialog: browsed.wrong.append(f"dialog {dialog.message}"))
        page.goto(browsed.address)
        yield browsed
    mine = (browsed.address, "data:")
    assert browsed.wrong == [] and [url for url in browsed.asked if not url.startswith(mine)] == []


@pytest.fixture
def browsed(project: Project) -> Iterator[Browsed]:
    with opened(project, "browse") as browsed:
        yield browsed


def ask(browsed: Browsed, text: str) -> str:
    """Search for a text and return what is shown."""
    browsed.page.locator("#text").fill(text)
    browsed.page.locator("#text").press("Enter")
    browsed.page.get_by_text("most similar first").wait_for()
    return str(browsed.page.locator("#items").inner_text())


def test_a_typed_query_shows_hits_and_runs_nothing_of_captions(
    browsed: Browsed, project: Project, tmp_path: Path
) -> None:
    page = browsed.page
    assert browsed.pictures() == [40] * 48  # a look at the whole
    ask(browsed, "a red circle")
    assert set(browsed.pictures()) == {40}
    shown = page.locator("#items figcaption").all_inner_texts()
    expected = search_pairs(project, "a red circle", k=48)
    assert [text.partition(" ")[2].split() for text in shown] == [
        str(text).split() for text in expected["caption"]
    ]
    assert page.url.endswith("?text=a+red+circle")
    page.get_by_label("Nearest").select_option("images")
    page.wait_for_url("**side=image")
    assert HOSTILE.split()[-1] in ask(browsed, HOSTILE)
    page.get_by_text(HOSTILE).first.wait_for()
    assert page.locator("#items script, #items img[src='x']").count() == 0
    page.screenshot(path=tmp_path / "text.png")
    page.go_back()
    page.wait_for_url("**side=image")
    expect(page.locator("#text")).to_have_value("a red circle")


def test_an_image_from_disk_and_a_result_are_searched_with(
    browsed: Browsed, tmp_path: Path
) -> None:
    draw("circle", "red", 0).save(tmp_path / "query.png")
    page = browsed.page
    page.locator("#file").set_input_files(tmp_path / "query.png")
    page.get_by_text("most similar first").wait_for()
    assert set(browsed.pictures()) == {40}
    # The very drawing is the first pair of the corpus.
    first = page.locator("#items figcaption b").first
    assert float(first.inner_text()) == pytest.approx(1, abs=0.01)
    chosen = page.locator("#items figure").nth(3)
    picture = chosen.locator("img").get_attribute("src")
    chosen.get_by_role("button", name="similar pictures").click()
    page.wait_for_url("**?row=*")
    expect(page.locator(PICTURES).first).to_have_attribute("src", str(picture))


def test_a_click_rejects_and_another_takes_it_back(retrieved_project: Project) -> None:
    with opened(retrieved_project, "review", "shapes") as browsed:
        page = browsed.page
        assert set(browsed.pictures()) == {40}
        pick = page.locator("#items .pick").first
        pick.click()
        page.get_by_text("decisions: 1").wait_for()
        assert len(current_decisions(retrieved_project, "shapes")) == 1
        assert "reject" in page.locator("#items figcaption").first.inner_text()
        pick.click()
        page.get_by_text("decisions: 0").wait_for()
        first = page.get_by_label("Class").input_value()
        page.keyboard.press("c")
        page.wait_for_url("**class=*")
        expect(page.get_by_label("Class")).not_to_have_value(first)
    assert not current_decisions(retrieved_project, "shapes")


def test_keys_judge_pictures_until_the_answer_is_clear(
    retrieved_project: Project, tmp_path: Path
) -> None:
    customized(retrieved_project, "gated-image")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(200):
        draw(SHAPES[n % 4], COLOURS[n // 4 % 4], 1_000 + n).save(pictures / f"{n:03d}.png")
    with opened(retrieved_project, "judge", "shapes", str(pictures), "--by", "a script") as browsed:
        page = browsed.page
        (log,) = (tmp_path / "judgements" / "shapes").glob("*.jsonl")
        header = Session.read(log).header
        names = retrieved_project.domain("shapes").class_names

        def wait(number: int) -> None:
            page.get_by_text(f"{number} of {len(header.pictures)} judged").wait_for()

        for number in range(JUDGEMENTS):
            wait(number)
            shown = page.locator("#buttons button").all_inner_texts()[:2]
            wanted = names[header.pictures[number].candidate]
            place = [text.rsplit(" ", 1)[0].strip() for text in shown].index(wanted)
            page.keyboard.press("n" if number % 5 == 4 else str(place + 1))
            if number == 10:
                wait(11)
                page.keyboard.press("z")
                wait(10)
                page.keyboard.press(str(place + 1))
        wait(JUDGEMENTS)
        assert browsed.pictures() == [40]
        assert "gated-image over base" in page.inner_text("#notice")
    counts = Session.read(log).counts
    assert (counts["judged"], counts["won"], counts["neither"]) == (JUDGEMENTS, 32, 8)
