"""What reaches a terminal: tables, messages of other runs, and nothing that a stranger's text tells it to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from react_pipeline.commands.terminal import print_table, printable
from react_pipeline.store import Store

HOSTILE = "a\x1b[2J cat\x1b]0;owned\x07\r\b\x9b1A \N{RIGHT-TO-LEFT OVERRIDE}[red]gpj"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red bird, caf\xe9 \N{CAT}", "a red bird, caf\xe9 \N{CAT}"),
        ("\x1b[2J", "\ufffd[2J"),
        ("\x9b1A\x07\r\b\x00", "\ufffd1A\ufffd\ufffd\ufffd\ufffd"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gpj\N{ZERO WIDTH SPACE}", "\ufffdgpj\ufffd"),
        ("\udcff\n", "\ufffd\ufffd"),
    ],
)
def test_what_is_not_printable_is_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_table_shows_a_strangers_text_and_does_nothing_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["caption", "key"], [[HOSTILE, "two\nlines"]])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "[red]gpj" in out and "cat" in out


def test_a_build_that_waits_for_another_says_so(tmp_path: Path) -> None:
    command = (
        "import sys; from pathlib import Path; from react_pipeline.store import Store\n"
        "from react_pipeline.commands.terminal import log_to_terminal\n"
        "log_to_terminal()\n"
        "with Store(Path(sys.argv[1])).locked('one \\x1b[2J'): print('its turn')\n"
    )
    with Store(tmp_path).locked("one \x1b[2J"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "INFO: waiting: another run builds one \ufffd[2J\n"
    assert waiting.communicate(timeout=60) == ("its turn\n", "")
