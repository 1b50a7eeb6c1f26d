"""SIGKILL in the middle of a download: nobody goes on fetching, and nothing that was had is fetched
again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from support.drawings import draw, encode
from support.processes import started
from support.web import send, served

from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.sources.url_source import UrlSource
from react_pipeline.store import ReactError

URLS, ANSWERED = 60, 20
THREADS = 4
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


def fetch(url: str, pool: Path, processes: int) -> None:
    try:
        list(source(pool, processes).fetch(table(url)))
    except ReactError as error:
        pool.with_name("error").write_text(str(error))


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
        run = started(fetch, web.url, tmp_path / "pool", processes)
        deadline = time.monotonic() + 900
        while web.asked.total() <= ANSWERED and time.monotonic() < deadline:
            time.sleep(0.02)
        left = psutil.Process(run.pid).children(recursive=True)
        workers = [one for one in left if "popen_loky" in str(one.cmdline())]
        assert len(workers) == processes
        pid = workers[0].pid if victim == "process" else run.pid
        os.kill(pid, SIGNALS.get(victim, signal.SIGKILL))
        run.join(900)
        if victim == "process":
            assert "corpus.download" in (tmp_path / "error").read_text()
        assert not psutil.wait_procs(left, timeout=900)[1]

        go_on.set()
        files = [path for path in (tmp_path / "pool").glob("*/*/*") if not path.suffix]
        asked = Counter(web.asked)
        assert 5 < len(files) <= ANSWERED
        images = [image for _, image in source(tmp_path / "pool", 1).fetch(table(web.url))]
        assert images == [encode(draw("circle", "red", n)) for n in range(URLS)]
        again = {path for path in web.asked if web.asked[path] > 1}
        assert len(again) <= 2 * THREADS * processes
        assert web.asked.total() - asked.total() == URLS - len(files)
