"""Images that kill the process that decodes them, as a flaw of a decoder would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.corpus import decoding
from support.processes import die

MARK = b"kills its decoder"
"""Behind the end of an image file, where decoders do not look."""

_decode, _load = decoding._decode, decoding._load


def decode_or_die(seconds: int, data: bytes, *given: Any) -> Any:
    """Decode in the process of `decode_apart`."""
    if data.endswith(MARK):
        die()
    return _decode(seconds, data, *given)


def load_or_die(batch: Any) -> Any:
    """Load in a process of `load_batches`."""
    decoding._decode = decode_or_die
    return _load(batch)


@contextmanager
def deadly_images() -> Iterator[None]:
    """Within, files that end in `MARK` kill who decodes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_decode", decode_or_die)
        patch.setattr(decoding, "_load", load_or_die)
        patch.setattr(decoding, "_loaders", None)
        patch.setattr(decoding._decoder, "pool", None)
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        yield
