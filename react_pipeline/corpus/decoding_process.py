"""A process that decodes images one by one: what kills it costs that image and nothing else.

For images that strangers send to a server. Where many are decoded, that happens in processes
already (`limit_memory`). Run as a program, this module is that process: it reads requests from its
input and answers on its output.
"""

import atexit
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from typing import IO

from PIL import Image

from react_pipeline.corpus.decoding_limits import DECODE_SECONDS, limit_memory
from react_pipeline.corpus.images import BadImage, decode_image

_REQUEST = struct.Struct("<QQ")
"""Bytes of the file, and `max_pixels`; the file follows."""
_ANSWER = struct.Struct("<IIQ")
"""Width, height and bytes of the pixels, which follow; of size 0: why there are none."""
_KILLED = "killed_decoder"


def decode_apart(data: bytes, max_pixels: int) -> Image.Image:
    """As `images.decode_image`, in a process with limits of memory and of processor time.

    One image at a time in this process, in whatever thread.

    Raises:
        BadImage: As `decode_image`, or with reason `killed_decoder`.
    """
    with _decoder.lock:
        try:
            return _decoder.ask(data, max_pixels)
        except (OSError, struct.error) as error:
            raise BadImage(_KILLED, _decoder.end()) from error


class _Decoder:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, data: bytes, max_pixels: int) -> Image.Image:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes
        process.stdin.write(_REQUEST.pack(len(data), max_pixels) + data)
        process.stdin.flush()
        width, height, size_bytes = _ANSWER.unpack(_whole(process.stdout, _ANSWER.size))
        answer = _whole(process.stdout, size_bytes)
        if not width:
            raise BadImage(*answer.decode().split("\0"))
        return Image.frombytes("RGB", (width, height), answer)

    def end(self) -> str:
        """End the process; says what it died of."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return ""
        process.kill()
        code = process.wait()
        return signal.Signals(-code).name if code < 0 else f"code {code}"

    def _started(self) -> subprocess.Popen[bytes]:
        # A forked process has no decoder of its own yet.
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is for the server, which then ends it
            )
        return self._process


_decoder = _Decoder()
atexit.register(_decoder.end)
os.register_at_fork(after_in_child=lambda: setattr(_decoder, "lock", threading.Lock()))


def _whole(file: IO[bytes], size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise OSError("the decoding process ended")
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    limit_memory()
    while head := requests.read(_REQUEST.size):
        size_bytes, max_pixels = _REQUEST.unpack(head)
        data = _whole(requests, size_bytes)
        used = resource.getrusage(resource.RUSAGE_SELF)
        end = int(used.ru_utime + used.ru_stime + 2 * DECODE_SECONDS) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (end, hard))
        try:
            image = decode_image(data, max_pixels)
            pixels = image.tobytes()
            size = image.size
        except BadImage as error:
            pixels = f"{error.reason}\0{error.detail}".encode("utf-8", "replace")
            size = 0, 0
        answers.write(_ANSWER.pack(*size, len(pixels)))
        answers.write(pixels)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
