"""Pages: whatever comes from outside is text in HTML and in Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import FileSystemLoader, UndefinedError
from markdown_it import MarkdownIt

from react_pipeline import pages
from react_pipeline.pages import escaped, markdown_table, render

HOSTILE = [
    "<img src=x onerror=alert(1)> | a\nb",
    "![x](http://192.0.2.1/x.png)",
    "[x](javascript:alert(1))",
    "<http://192.0.2.1>",
    "`code` *bold* _it_ \\| end",
    "&lt;b&gt; &#60;i&#62;",
    "# heading",
]


class Rendered(HTMLParser):
    """What a reader of Markdown makes of a text: its tags, and the text of each cell."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self.cells += [""] if tag in ("td", "th", "p") else []

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data.strip("\n")


def test_text_in_a_table_is_read_as_it_is() -> None:  # FAULTS 34
    rendered = Rendered(markdown_table(["class"], [[name] for name in HOSTILE]))
    assert rendered.cells == ["class", *(" ".join(name.split()) for name in HOSTILE)]
    assert rendered.tags == {"table", "thead", "tbody", "tr", "th", "td"}

    for text in HOSTILE:
        rendered = Rendered(f"Of {escaped(text)}")
        assert rendered.cells == ["Of " + " ".join(text.split())] and rendered.tags == {"p"}
    table = markdown_table(["a", "b", "c", "d"], [(12_345, 0.123456, None, float("nan"))])
    assert table.splitlines()[2] == "| 12,345 | 0.1235 |  |  |"


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "PackageLoader", lambda *_: FileSystemLoader(tmp_path))
    pages._environment.cache_clear()
    yield tmp_path
    pages._environment.cache_clear()


def test_a_template_escapes_what_it_puts_in(templates: Path) -> None:
    for name in ("page.html", "page.md"):
        (templates / name).write_text("of {{ name }}")
    assert render("any", "page.html", name="<b>\n'x'") == "of &lt;b&gt; &#39;x&#39;"
    assert render("any", "page.md", name="<b>\n[x]") == r"of \<b\> \[x\]"
    with pytest.raises(UndefinedError):
        render("any", "page.html", nmae="x")


def test_every_page_has_the_one_stylesheet_and_its_colours() -> None:
    folder = Path(pages.__file__).parent
    (style_file,) = folder.rglob("*.css")
    for page in folder.rglob("templates/*.html"):
        text = page.read_text()
        rest = text.partition('{% include "style.css" %}')[2]
        assert ("<html" in text) == (page.name == "page.html"), page
        assert "<style" not in rest and "style=" not in text, page
    style = style_file.read_text()
    light, dark = (
        set(re.findall(r"--\w[\w-]*(?=:)", part))
        for part in style.split("@media (prefers-color", 2)[:2]
    )
    assert light == dark and set(re.findall(r"var\((--[\w-]+)\)", style)) <= light
