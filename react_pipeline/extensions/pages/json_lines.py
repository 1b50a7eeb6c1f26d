"""Files of JSON lines that a page appends to: a line is on the disk before the page hears of it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from react_pipeline.store import InputError, StoreWriteError, append, lock


@contextmanager
def open_lines(path: Path) -> Iterator[Callable[[str], bytes]]:
    """Hold a file for this process alone; yields a function that appends a line and returns its
    bytes.

    Raises:
        InputError: If another process holds it.
        StoreWriteError: If it cannot be written; then it is as it was.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreWriteError(f"{path}: {error.strerror}; make the folder writable") from error

    def write(line: str) -> bytes:
        data = line.encode() + b"\n"
        try:
            append(descriptor, data)
        except OSError as error:
            raise StoreWriteError(f"{path}: {error.strerror}; free space, click again") from error
        return data

    try:
        if not lock(descriptor, wait=False):
            raise InputError(f"{path}: another command has it open; use its page, or stop it")
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise InputError(f"{path}: another command has just left it; start again")
        # What a kill left of a line was never acknowledged; a whole one was added by hand.
        whole, _, last = path.read_bytes().rpartition(b"\n")
        os.ftruncate(descriptor, len(whole) + 1 if whole else 0)
        with suppress(ValueError, RecursionError):
            json.loads(last)
            append(descriptor, last + b"\n")
        try:
            yield write
        finally:
            if not os.fstat(descriptor).st_size:
                path.unlink()  # looking without deciding leaves no file
    finally:
        os.close(descriptor)
