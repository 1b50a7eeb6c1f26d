"""The methods of docs/methods.md, as the extension of another package brings them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from react_pipeline import extension
from react_pipeline.extension import Extension
from react_pipeline.settings import methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def module_of_page() -> dict[str, Any]:
    """What the example of the section "A new method" defines."""
    section = PAGE.read_text().split("## A new method")[1]
    code = section.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "a_package"}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


@contextmanager
def installed(name: str, brought: Extension) -> Iterator[None]:
    """As if a package with this extension were installed."""
    there = {**extension.extensions(), name: brought}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "extensions", lambda: there)
        methods._methods.cache_clear()
        yield
    methods._methods.cache_clear()
