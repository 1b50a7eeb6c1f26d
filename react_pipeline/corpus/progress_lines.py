"""Progress of long loops over a corpus: a bar in a terminal, lines of the log elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

LINE_SECONDS = 20
"""Seconds between two lines of the log."""


def progress(
    items: Iterable[Item], title: str, unit: str, total: int | None = None
) -> Iterator[Item]:
    """Yield items, and report how many there were."""
    bar = tqdm(items, title, total, unit=unit, disable=None)
    if not bar.disable:
        yield from bar
        return
    of_all = "" if total is None else f" of {total:,}"
    last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - last >= LINE_SECONDS:
            logger.info("%s: %s%s %ss", title, f"{number:,}", of_all, unit)
            last = now
