"""What decoding an image may cost: looked at in its header, counted while it is read, and bounded
for a whole process.

Does not belong here: decoding (`images`), a process of its own for it (`decoding_process`).
"""

import io
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

MAX_SCANS = 100
MAX_SCANNED_PIXELS = 1 << 30
"""Of a JPEG, over all its scans: ten of 100 megapixels. Each scan is a pass over the image."""
MAX_TILE_PIXELS = 1 << 24
"""Of a TIFF; usual tiles have 2^18 at most."""
MAX_PIXEL_BYTES = 8
"""Of a TIFF: four channels of 16 bits, or one of 64."""
DECODE_SECONDS = 20.0
"""Of processor time for one image; those of 100 megapixels take two."""
WORKER_BYTES = 4 << 30
"""What a process that decodes may take in addition to what it has when it starts."""

_TILE_WIDTH, _TILE_LENGTH, _BITS, _CHANNELS, _COMPRESSION = 322, 323, 258, 277, 259
_JPEG_IN_TIFF = (6, 7)
_SCAN = b"\xff\xda"
"""Of a JPEG. In the data of a scan, 0 follows each 255."""


class TooCostly(Exception):  # noqa: N818 - caught by `decode_image`, which names the reason
    """An image that would take too much memory or time; `args` are the reason and the detail."""


class TimedFile(io.BytesIO):
    """The bytes of an image, which give out once this thread has computed for `DECODE_SECONDS`.

    A decoder asks for the next 64 KB when it has used the last ones.
    """

    def __init__(self, data: bytes) -> None:
        """Begin to count."""
        super().__init__(data)
        self._end = time.thread_time() + DECODE_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or all.

        Raises:
            TooCostly: When the time is over.
        """
        if time.thread_time() > self._end:
            raise TooCostly("too_slow", f"more than {DECODE_SECONDS:.0f} s")
        return super().read(size)


def require_bounded(image: Any, data: bytes) -> None:
    """Refuse an image of Pillow, opened and not decoded, whose file says that it is costly.

    Raises:
        TooCostly: With reason `too_many_scans` or `too_large_tiles`.
    """
    pixels = image.width * image.height
    if image.format == "TIFF":
        tags = image.tag_v2
        tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
        bits = tags.get(_BITS, (1,))
        depth = int(max(bits) if isinstance(bits, tuple) else bits) * int(tags.get(_CHANNELS, 1))
        if tile > MAX_TILE_PIXELS or depth > 8 * MAX_PIXEL_BYTES:
            raise TooCostly("too_large_tiles", f"{tile:,} pixels of {depth} bits")
        if tags.get(_COMPRESSION) not in _JPEG_IN_TIFF:
            return
    elif image.format != "JPEG":
        return
    # Many times as fast as `data.count`.
    values = np.frombuffer(data, np.uint8)
    scans = int(np.count_nonzero((values[:-1] == _SCAN[0]) & (values[1:] == _SCAN[1])))
    if scans > MAX_SCANS and image.format == "JPEG" or scans * pixels > MAX_SCANNED_PIXELS:
        raise TooCostly("too_many_scans", f"{scans:,} of {pixels:,} pixels")


def limit_memory() -> None:
    """Let this process take no more than `WORKER_BYTES` in addition: what asks for more gets a
    MemoryError, and its image is counted. Called when a process that decodes starts.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + WORKER_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def limit_time() -> None:
    """Let the kernel end this process if the next image takes twice `DECODE_SECONDS` of processor
    time, in a decoder that does not ask for more of its file.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime + 2 * DECODE_SECONDS) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(
        resource.RLIMIT_CPU, (end if hard == resource.RLIM_INFINITY else min(end, hard), hard)
    )
