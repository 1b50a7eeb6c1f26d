"""Files from outside, read under a bound: regular files alone, no more bytes than allowed, JSON
that fits into memory.

Every module that reads a file of the user or of a stranger opens it here, or is listed in
`tests/house/test_outside_files.py` with its own bound. Does not belong here: tables
(`corpus.tables`), images, archives.
"""

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 512 << 20
MAX_IMAGE_BYTES = 256 << 20
"""A larger file is no image worth the memory that decoding it takes."""
MAX_JSON_BYTES = 1 << 30
"""What a document may take in memory once it is parsed, by an estimate."""

_BYTES_OF = {b",": 32, b"[": 88, b"{": 200}
"""Memory that Python takes for what each mark begins: a number in a list, a list, an object."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; opening a named pipe would wait for its writer, and a device may
    never end.

    Raises:
        OSError: If it is no regular file, or as `open`.
    """
    # By `open`, which keeps the name for messages.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: PTH123, SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return file


def read_bounded(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: If it is no regular file, holds more than `max_bytes`, or as `open`.
    """
    with open_regular(path) as file:
        # The size first: a sparse file takes no disk and all memory. It may grow meanwhile.
        if os.fstat(file.fileno()).st_size <= max_bytes:
            data = file.read(max_bytes + 1)
            if len(data) <= max_bytes:
                return data
    raise OSError(errno.EFBIG, f"holds more than {max_bytes:,} bytes", str(path))


def parse_json(data: bytes, **options: Any) -> Any:
    """Return the value of a JSON document in UTF-8; `options` as of `json.loads`.

    Raises:
        ValueError: If it is damaged, nested too deeply, or would take more than `MAX_JSON_BYTES`.
    """
    size_bytes = len(data) + sum(data.count(mark) * cost for mark, cost in _BYTES_OF.items())
    if size_bytes > MAX_JSON_BYTES:
        raise ValueError(
            f"it would take {size_bytes:,} bytes of memory, allowed are {MAX_JSON_BYTES:,}"
        )
    try:
        return json.loads(data.decode("utf-8-sig"), **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_bounded(path: Path, max_bytes: int = MAX_TEXT_BYTES, **options: Any) -> Any:
    """Return the value of a JSON file; errors as of `read_bounded` and `parse_json`."""
    return parse_json(read_bounded(path, max_bytes), **options)
