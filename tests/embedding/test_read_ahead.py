"""Images are read by a thread while others are encoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from react_pipeline.embedding.images import read_ahead


def test_items_are_read_before_they_are_asked_for() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number
        raise OSError("the disk is gone")

    ahead = read_ahead(items(), 8)
    assert not read
    assert [next(ahead), next(ahead)] == [0, 1]
    end = time.monotonic() + 10
    while len(read) < 9 and time.monotonic() < end:
        time.sleep(0.01)
    # One was taken at once, and eight were asked for when the second one was.
    assert len(read) == 9
    assert [next(ahead) for _ in range(98)] == [*range(2, 100)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    left = read_ahead(iter(range(1_000_000)), 4)
    assert [next(left) for _ in range(30)] == [*range(30)]
    left.close()
    assert all(thread.name != "read-ahead" for thread in threading.enumerate())
