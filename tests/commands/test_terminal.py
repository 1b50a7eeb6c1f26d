"""What reaches a terminal: tables, messages of other runs, and nothing that a stranger's text tells
it to do.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from react_pipeline.commands.terminal import print_table
from react_pipeline.store.store import Store

HOSTILE = "caf\xe9 \x1b[2J cat\x1b]0;owned\x07\r\b\x9b1A\udcff \N{RIGHT-TO-LEFT OVERRIDE}[red]gpj"


def test_table_shows_strangers_text_and_does_nothing_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(["caption", "key"], [[HOSTILE, "two\nlines"]])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "[red]gpj" in out and "caf\xe9 \ufffd[2J cat" in out


def test_a_narrow_terminal_folds_names_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then writes as to a terminal
    monkeypatch.setenv("COLUMNS", "36")
    print_table(
        ["domain", "method", "trains"], [["animals", "gated-image-control", "3,548,933"]], right=3
    )
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert sum("3,548,933" in line for line in lines) == 1 and max(map(len, lines)) <= 36
    assert "".join(line[9:25].strip() for line in lines[1:]) == "gated-image-control"


def test_where_no_terminal_reads_every_row_is_one_whole_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    why = "a reason that goes on " * 30
    print_table(
        ["domain", "method", "why"],
        [["animals", "gated-image", why], ["food", "base", ""]],
    )
    assert capsys.readouterr().out.splitlines() == [
        "domain   method       why",
        f"animals  gated-image  {why.strip()}",
        "food     base",  # and no blanks as far as the longest reason
    ]


def test_a_build_that_waits_for_another_says_so(tmp_path: Path) -> None:
    command = (
        "import sys; from pathlib import Path; from react_pipeline.store.store import Store\n"
        "from react_pipeline.commands.terminal import log_to_terminal\n"
        "log_to_terminal()\n"
        "with Store(Path(sys.argv[1])).locked('one \\x1b[2J'): print('its turn')\n"
    )
    with Store(tmp_path).locked("one \x1b[2J"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", command, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "INFO: waiting: another run holds one \ufffd[2J\n"
    assert waiting.communicate(timeout=900) == ("its turn\n", "")


CAPTURED = """
import os, sys
import tqdm
from react_pipeline.commands.terminal import bars_in_terminal, print_line
with bars_in_terminal():
    captured = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(captured, stream.fileno())
    for number in tqdm.tqdm(range(2), "embedding", disable=None):
        print_line(f"line {number}")
    os.write(2, b"of a library in C")
"""


def test_bars_and_lines_reach_a_redirected_terminal(
    tmp_path: Path,
) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", CAPTURED, str(tmp_path / "captured")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65_536):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0
    lines = [line.rpartition("\r")[2] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1"]
    assert "embedding: 100%" in shown.decode()
    assert (tmp_path / "captured").read_text() == "of a library in C"
