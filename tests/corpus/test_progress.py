"""How far a loop is, where there is no terminal for a bar."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from react_pipeline.corpus import progress_lines
from react_pipeline.corpus.progress_lines import progress


def test_a_loop_without_a_terminal_logs_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress_lines, "LINE_SECONDS", 0)
    caplog.set_level(logging.INFO)
    assert list(progress(range(2), "drawing", "image", 2_000)) == [0, 1]
    assert list(progress(range(1), "looking", "shard")) == [0]
    assert caplog.messages == [
        "drawing: 1 of 2,000 images",
        "drawing: 2 of 2,000 images",
        "looking: 1 shards",
    ]
