"""SIGKILL in the middle of a download: nobody goes on fetching, and nothing that was had is fetched
again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from support.drawings import draw, encode
from support.services import command_lines
from support.web import send, served

from react_pipeline.extensions.sources.downloads import UrlSource
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.ui.servers import listen_to_signals

URLS, ANSWERED = 60, 20
THREADS = 4
CODE = """
import sys
from pathlib import Path
from test_killed_download import source, table
if __name__ == "__main__":
    list(source(Path(sys.argv[2]), int(sys.argv[3])).fetch(table(sys.argv[1])))
"""
SIGNALS = {"run": signal.SIGKILL, "run, gently": signal.SIGINT, "run, politely": signal.SIGTERM}


def source(pool: Path, processes: int) -> UrlSource:
    download = {"threads": THREADS, "processes": processes, "retries": 0, "timeout_seconds": 20}
    download["allow_private_addresses"] = True
    return UrlSource(
        ReadyEmbeddings.model_validate({"embeddings": "x", "download": download}), pool
    )


def table(url: str) -> pd.DataFrame:
    urls = [f"{url}/{number}" for number in range(URLS)]
    return pd.DataFrame({"row": range(URLS), "url": urls, "caption": "a"})


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("victim", [*SIGNALS, "process"])
def test_what_was_had_before_a_kill_is_not_fetched_again(
    tmp_path: Path, victim: str, processes: int
) -> None:
    if victim == "process" and processes == 1:
        pytest.skip("the run itself fetches")
    go_on = threading.Event()

    def answer(handler: Any, _before: int) -> None:
        if web.asked.total() > ANSWERED:
            go_on.wait(900)
        send(handler, encode(draw("circle", "red", int(handler.path[1:]))))

    with served({f"/{n}": answer for n in range(URLS)}) as web:
        script = tmp_path / "run.py"
        script.write_text(CODE)
        command = [sys.executable, str(script), web.url, str(tmp_path / "pool"), str(processes)]
        run = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=listen_to_signals,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        deadline = time.monotonic() + 900
        while web.asked.total() <= ANSWERED and time.monotonic() < deadline:
            time.sleep(0.02)
        started = command_lines(run.pid)
        workers = [
            one for one in psutil.Process(run.pid).children() if "popen_loky" in str(one.cmdline())
        ]
        assert len(workers) == processes
        os.kill(
            workers[0].pid if victim == "process" else run.pid, SIGNALS.get(victim, signal.SIGKILL)
        )
        _, errors = run.communicate(timeout=900)
        if victim == "process":
            assert "corpus.download" in errors
        assert not psutil.wait_procs(list(started), timeout=900)[1]

        go_on.set()
        files = [path for path in (tmp_path / "pool").glob("*/*/*") if not path.suffix]
        asked = Counter(web.asked)
        assert 5 < len(files) <= ANSWERED
        images = [image for _, image in source(tmp_path / "pool", 1).fetch(table(web.url))]
        assert images == [encode(draw("circle", "red", n)) for n in range(URLS)]
        again = {path for path in web.asked if web.asked[path] > 1}
        assert len(again) <= 2 * THREADS * processes
        assert web.asked.total() - asked.total() == URLS - len(files)
