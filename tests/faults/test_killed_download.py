"""SIGKILL in the middle of a download: nobody goes on fetching, and nothing that was had is fetched
again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from support.drawings import draw, encode
from support.services import command_lines
from support.web import keep_img2dataset_loaded, send, served

from react_pipeline.extensions.ui.process_groups import listen_to_signals
from react_pipeline.extensions.web.downloads import download_images
from react_pipeline.settings.corpus import DownloadConfig

URLS = 60
SETTINGS = DownloadConfig(
    threads=4, processes=1, retries=0, allow_private_addresses=True, timeout_seconds=20
)
CODE = f"""
import sys
from pathlib import Path
import pandas as pd
from react_pipeline.settings.corpus import DownloadConfig
from react_pipeline.extensions.web.downloads import download_images
settings = DownloadConfig.model_validate_json({SETTINGS.model_dump_json()!r})
urls = [sys.argv[1] + f"/{{n}}" for n in range({URLS})]
download_images(pd.DataFrame({{"row": range({URLS}), "url": urls}}), Path(sys.argv[2]), settings, 10_000)
"""


def slow(handler: Any, _before: int) -> None:
    time.sleep(0.1)
    send(handler, encode(draw("circle", "red", int(handler.path[1:]))))


SIGNALS = {"run": signal.SIGKILL, "run, gently": signal.SIGINT, "run, politely": signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("victim", [*SIGNALS, "process"])
def test_what_was_had_before_a_kill_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    keep_img2dataset_loaded(monkeypatch)
    with served({f"/{n}": slow for n in range(URLS)}) as web:
        table = pd.DataFrame({"row": range(URLS), "url": [f"{web.url}/{n}" for n in range(URLS)]})
        command = [sys.executable, "-c", CODE, web.url, str(tmp_path)]
        run = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_signals
        )
        deadline = time.monotonic() + 120
        while web.asked.total() < 15 and time.monotonic() < deadline:
            time.sleep(0.02)
        started = command_lines(run.pid)
        workers = [process for process, line in started.items() if "spawn_main" in " ".join(line)]
        assert len(workers) == 1
        os.kill(
            workers[0].pid if victim == "process" else run.pid, SIGNALS.get(victim, signal.SIGKILL)
        )
        _, errors = run.communicate(timeout=120)
        if victim == "process":
            assert "corpus.download" in errors
        assert not psutil.wait_procs(list(started), timeout=60)[1]

        lines = [
            line for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()
        ]
        had = {json.loads(line)["url"] for line in lines if line.endswith("}")}
        asked = Counter(web.asked)
        assert 5 < len(had) < URLS
        done = download_images(table, tmp_path, SETTINGS, 10_000)
        assert len(done.images) == URLS
        assert [done.read(n) for n in range(URLS)] == [
            encode(draw("circle", "red", n)) for n in range(URLS)
        ]
        again = {f"{web.url}{path}" for path in web.asked if web.asked[path] > 1}
        assert not again & had
        assert len(again) <= 2 * SETTINGS.threads * SETTINGS.processes
        assert web.asked.total() - asked.total() == URLS - len(had)
