"""Commands: in this process and as processes of their own, and what they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from react_pipeline.commands.cli import app, main
from react_pipeline.project.project import Project

_CODE = """
import sys; from react_pipeline.commands.cli import main
try: main(sys.argv[1:])
except SystemExit: pass
sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command: its exit code, what it prints, and what it reports."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    reported = capsys.readouterr()
    return int(stop.value.code or 0), reported.out, reported.err


def call_in_words(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same, with single blanks."""
    code, *texts = call(capsys, *arguments)
    out, reported = (" ".join(text.split()) for text in texts)
    return code, out, reported


def assert_loads_no_torch(*command: str, cwd: Path | None = None) -> None:
    """Run a command, which loads neither torch nor MLflow."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *command], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def status(project: Project) -> list[str]:
    """The lines of `react-pipeline status`, each with single blanks."""
    done = CliRunner().invoke(app, ["status", "--config", str(project.path)])
    assert done.exit_code == 0, done.output
    return [" ".join(line.split()) for line in done.output.splitlines()]
