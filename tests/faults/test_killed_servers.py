"""A user interface that is killed must not leave its own children behind when the others are stopped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from react_pipeline.commands.servers import Server, stop


@pytest.mark.parametrize("killed", [True, False], ids=["killed before", "running"])
def test_children_of_a_server_end_with_it_even_if_it_was_killed_before(tmp_path: Path, killed: bool) -> None:
    command = ["sh", "-c", "sleep 60 & echo started; wait"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    if killed:
        process.kill()
        process.wait()
    stop([Server("dagster", "http://127.0.0.1:0", process, tmp_path / "dagster.log")])
    process.communicate(timeout=20)  # the pipe ends with the last process that holds it
    assert process.returncode
