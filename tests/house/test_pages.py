"""Pages: whatever comes from outside is text in HTML and in Markdown."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
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
    assert "| 0.1235 |" in markdown_table(["share"], [[0.12345678]])
    assert rendered.tags == {"table", "thead", "tbody", "tr", "th", "td"}

    for text in HOSTILE:
        rendered = Rendered(f"Of {escaped(text)}")
        assert rendered.cells == ["Of " + " ".join(text.split())] and rendered.tags == {"p"}
    table = markdown_table(["a", "b", "c", "d"], [(12_345, 0.123456, None, float("nan"))])
    assert table.splitlines()[2] == "| 12,345 | 0.1235 |  |  |"


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from jinja2 import FileSystemLoader

    monkeypatch.setattr(pages, "PackageLoader", lambda *_: FileSystemLoader(tmp_path))
    pages._environment.cache_clear()
    yield tmp_path
    pages._environment.cache_clear()


def test_a_template_escapes_what_it_puts_in(templates: Path) -> None:
    for name in ("page.html", "page.md"):
        (templates / name).write_text("of {{ name }}")
    assert render("any", "page.html", name="<b>\n'x'") == "of &lt;b&gt; &#39;x&#39;"
    assert render("any", "page.md", name="<b>\n[x]") == r"of \<b\> \[x\]"


def test_a_value_that_is_missing_is_an_error(templates: Path) -> None:
    (templates / "page.html").write_text("{{ nmae }}")
    with pytest.raises(UndefinedError):
        render("any", "page.html", name="x")
