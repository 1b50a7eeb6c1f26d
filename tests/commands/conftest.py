"""Commands called in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from react_pipeline.commands.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command: its exit code, what it prints, and what it reports."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        reported = capsys.readouterr()
        return int(stop.value.code or 0), reported.out, reported.err

    return run


@pytest.fixture
def call_in_words(call: Call) -> Call:
    """The same, with single blanks."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code, *texts = call(*arguments)
        out, reported = (" ".join(text.split()) for text in texts)
        return code, out, reported

    return run
