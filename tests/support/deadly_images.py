"""Images that kill the process that decodes them, as a flaw of a decoder would."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.corpus import decoding_process

MARK = b"kills its decoder"
"""Behind the end of an image file, where decoders do not look."""

_PROGRAM = """
import sys
from support import deadly_images
from react_pipeline.corpus import decoding_process
decoding_process._decode = deadly_images.decode_or_die
decoding_process._serve(sys.stdin.buffer, sys.stdout.buffer)
"""
_decode = decoding_process._decode


def decode_or_die(data: bytes, *given: Any, **options: Any) -> Any:
    """Where both kinds of processes decode."""
    if data.endswith(MARK):
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode(data, *given, **options)


@contextmanager
def deadly_images() -> Iterator[None]:
    """Within, files that end in `MARK` kill who decodes them."""
    decoding_process._decoder.end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding_process, "_decode", decode_or_die)
        patch.setattr(decoding_process, "_PROGRAM", [sys.executable, "-c", _PROGRAM])
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        yield
        decoding_process._decoder.end()
